"""The hosted payment page: what is bought, and a few buttons instead of a card."""

import time
from collections.abc import Callable
from functools import partial
from html import escape
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from deploy.local.stripe_sandbox import checkout
from deploy.local.stripe_sandbox.html import money, page
from deploy.local.stripe_sandbox.objects.charge import DECLINED
from deploy.local.stripe_sandbox.sandbox import Sandbox
from deploy.local.stripe_sandbox.store import Object, Stored
from services.chassis import logs

log = logs.get(__name__)

_PLACEHOLDER = "{CHECKOUT_SESSION_ID}"
_MAX_FORM_BYTES = 4_096


class PaymentPage:
    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def show(self, request: Request) -> Response:
        """GET /c/pay/{id}"""
        found = self._load(request)
        if found is None:
            return _unknown()
        if found.body["status"] != "open":
            return _over(found.body, complete_status=200)
        return _open(found, alert="", status=200)

    async def act(self, request: Request) -> Response:
        """POST /c/pay/{id}, a form with action=pay|pay_later|decline|abandon|half_off|free"""
        action = await _action(request)
        found = self._load(request)
        if found is None:
            return _unknown()
        acts: dict[str, Callable[[Stored], Response]] = {
            "pay": self._pay,
            "pay_later": self._pay_later,
            "decline": self._decline,
            "abandon": self._abandon,
            "half_off": partial(self._enter_code, percent_off=50),
            "free": partial(self._enter_code, percent_off=100),
        }
        if action not in acts:
            return _open(found, alert="The form asks for nothing that this page can do.", status=400)
        log.info("page.pressed", session_id=found.body["id"], action=action)
        try:
            return acts[action](found)
        except checkout.NotOpen as error:
            return _over(error.session, complete_status=409)

    def _load(self, request: Request) -> Stored | None:
        with self._sandbox.store.transaction():
            checkout.expire_due(self._sandbox.store, now=int(time.time()))
        self._sandbox.sender.wake()
        return self._sandbox.store.find(checkout.KIND, request.path_params["id"])

    def _pay(self, found: Stored) -> Response:
        with self._sandbox.store.transaction():
            checkout.pay(self._sandbox.store, found.body["id"], now=int(time.time()))
        self._sandbox.sender.wake()
        return RedirectResponse(_success_url(found.body), status_code=303)

    def _pay_later(self, found: Stored) -> Response:
        if found.body["mode"] == "subscription":
            return _open(found, alert="A subscription is paid by card.", status=400)
        if found.body["amount_total"] == 0:
            return _open(found, alert="There is nothing to pay.", status=400)
        with self._sandbox.store.transaction():
            checkout.pay_later(self._sandbox.store, found.body["id"], now=int(time.time()))
        self._sandbox.sender.wake()
        return RedirectResponse(_success_url(found.body), status_code=303)

    def _enter_code(self, found: Stored, *, percent_off: int) -> Response:
        with self._sandbox.store.transaction():
            session = checkout.enter_code(
                self._sandbox.store, found.body["id"], percent_off=percent_off, now=int(time.time())
            )
        if not session["discounts"]:
            return _open(found, alert="This page takes no promotion code.", status=400)
        return RedirectResponse(f"/c/pay/{session['id']}", status_code=303)

    def _decline(self, found: Stored) -> Response:
        if found.body["amount_total"] == 0:
            return _open(found, alert="There is nothing to pay.", status=400)
        with self._sandbox.store.transaction():
            checkout.decline(self._sandbox.store, found.body["id"], now=int(time.time()))
        self._sandbox.sender.wake()
        return _open(found, alert=f"{DECLINED} Nothing was charged. You can try again.", status=402)

    def _abandon(self, found: Stored) -> Response:
        session = found.body
        if session["status"] != "open":
            raise checkout.NotOpen(session)
        if session["cancel_url"] is None:
            return _open(found, alert="The shop has named no address to go back to.", status=400)
        return RedirectResponse(session["cancel_url"].replace(_PLACEHOLDER, session["id"]), status_code=303)


async def _action(request: Request) -> str:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_FORM_BYTES:
            return ""
    return parse_qs(body.decode("utf-8", "replace")).get("action", [""])[0]


def _success_url(session: Object) -> str:
    return str(session["success_url"]).replace(_PLACEHOLDER, session["id"])


def _open(found: Stored, *, alert: str, status: int) -> Response:
    session = found.body
    if session["status"] != "open":
        return _over(session, complete_status=409)
    total = escape(money(session["amount_total"], session["currency"]))
    warning = f'<p role="alert">{escape(alert)}</p>' if alert else ""
    email = session["customer_email"]
    buyer = f'<p class="soft">Receipt to {escape(email)}</p>' if email else ""
    is_once = session["mode"] == "payment"
    is_free = session["amount_total"] == 0
    later = _button("pay_later", "Pay by bank debit, which takes its time") if is_once and not is_free else ""
    codes = _codes() if session["allow_promotion_codes"] else ""
    abandon = _button("abandon", "Back to the shop") if session["cancel_url"] else ""
    body = (
        f'<h1>Pay AI Shop</h1><p class="amount">{total}{_interval(found)}</p>{warning}'
        f"{_lines(found.hidden['line_items'])}{buyer}"
        f'<form method="post">{_button("pay", f"Pay {total}", main=True)}{later}{codes}'
        f"{_button('decline', 'Pay with a card that is declined')}{abandon}</form>"
        '<p class="soft">Sandbox: no card, no money. This page stands in for Stripe’s.</p>'
    )
    return page("Pay AI Shop", body, status=status)


def _codes() -> str:
    half = _button("half_off", "Promotion code for half of it")
    return half + _button("free", "Promotion code for all of it")


def _interval(found: Stored) -> str:
    """How often it is paid: `per month`, `every 2 weeks`; nothing for what is paid once."""
    recurring = found.hidden["line_items"][0]["price"]["recurring"]
    if recurring is None:
        return ""
    count, interval = recurring["interval_count"], recurring["interval"]
    return f" per {interval}" if count == 1 else f" every {count} {interval}s"


def _button(action: str, label: str, *, main: bool = False) -> str:
    look = ' class="main"' if main else ""
    return f'<button name="action" value="{action}"{look}>{label}</button>'


def _lines(items: list[Object]) -> str:
    rows = "".join(
        f"<tr><td>{escape(item['description'])}</td><td class=number>{item['quantity']}</td>"
        f"<td class=number>{escape(money(item['amount_total'], item['currency']))}</td></tr>"
        for item in items
    )
    return (
        "<table><caption>What you buy</caption><thead><tr><th scope=col>Item</th>"
        "<th scope=col class=number>Quantity</th><th scope=col class=number>Amount</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _over(session: Object, *, complete_status: int) -> Response:
    """For a session that takes no payment any more: paid (a press that came too late is a 409), or expired
    (410)."""
    if session["status"] == "complete":
        url = escape(_success_url(session))
        body = f'<h1>Already paid</h1><p>This was paid once.</p><p><a href="{url}">Back to the shop</a></p>'
        return page("Already paid", body, status=complete_status)
    link = ""
    if session["cancel_url"]:
        url = escape(session["cancel_url"].replace(_PLACEHOLDER, session["id"]))
        link = f'<p><a href="{url}">Back to the shop</a></p>'
    body = f"<h1>This page has expired</h1><p>Nothing was charged.</p>{link}"
    return page("Expired", body, status=410)


def _unknown() -> Response:
    return page("Not found", "<h1>Not found</h1><p>No such payment page.</p>", status=404)


def routes(sandbox: Sandbox) -> list[Route]:
    payment_page = PaymentPage(sandbox)
    return [
        Route("/c/pay/{id}", payment_page.show, methods=["GET"]),
        Route("/c/pay/{id}", payment_page.act, methods=["POST"]),
    ]
