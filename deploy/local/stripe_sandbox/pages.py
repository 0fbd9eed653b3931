"""The hosted payment page, and a page that says what this is."""

from html import escape
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from deploy.local.stripe_sandbox.errors import StripeError
from deploy.local.stripe_sandbox.objects import Fields
from deploy.local.stripe_sandbox.store import Store
from deploy.local.stripe_sandbox.till import KIND, Till

_RECENT = 20
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }}
body {{ margin: 0; min-height: 100vh; display: grid; place-items: center; background: Canvas }}
main {{ width: min(28rem, 90vw); padding: 2rem; border: 1px solid #8884; border-radius: 1rem }}
h1 {{ font-size: 1.1rem; margin: 0 0 1rem }} .note {{ color: GrayText; font-size: .85rem }}
table {{ width: 100%; border-collapse: collapse; margin: 0 0 1.5rem }} td {{ padding: .4rem 0 }}
td:last-child {{ text-align: right; font-variant-numeric: tabular-nums }}
tr.total td {{ border-top: 1px solid #8886; font-weight: 600; font-size: 1.2rem }}
button {{ font: inherit; width: 100%; padding: .7rem; margin: .25rem 0; border-radius: .5rem;
  border: 1px solid #8886; background: transparent; color: inherit; cursor: pointer }}
button.pay {{ background: #635bff; border-color: #635bff; color: white; font-weight: 600 }}
button:focus-visible {{ outline: 3px solid #635bff88 }} .alert {{ color: #c0392b; font-weight: 600 }}
</style></head><body><main>{body}</main></body></html>"""


class Pages:
    def __init__(self, store: Store, till: Till) -> None:
        self._store = store
        self._till = till

    def routes(self) -> list[Route]:
        return [
            Route("/", self._about, methods=["GET"]),
            Route("/c/pay/{id}", self._show, methods=["GET"]),
            Route("/c/pay/{id}", self._submit, methods=["POST"]),
        ]

    async def _show(self, request: Request) -> Response:
        try:
            return _payment_page(self._till.find(request.path_params["id"]))
        except StripeError:
            return _message("There is no such payment page.", 404)

    async def _submit(self, request: Request) -> Response:
        """action=pay|decline|abandon, from the page's buttons or from a test."""
        id = request.path_params["id"]
        async with request.form() as form:
            action = form.get("action")
        try:
            before = self._till.find(id)
        except StripeError:
            return _message("There is no such payment page.", 404)
        if action == "abandon":
            return RedirectResponse(before["cancel_url"] or before["success_url"], 303)
        if action not in ("pay", "decline"):
            return _message("Send action=pay, decline or abandon.", 400)
        if before["status"] != "open":
            return _payment_page(before)
        after = self._till.pay(id) if action == "pay" else self._till.decline(id)
        if after["status"] == "complete":
            return RedirectResponse(after["success_url"].replace("{CHECKOUT_SESSION_ID}", quote(id)), 303)
        return _payment_page(after, declined=action == "decline")

    async def _about(self, _: Request) -> Response:
        sessions = "".join(
            f"<tr><td><a href='/c/pay/{escape(each['id'])}'>{escape(each['id'][:20])}…</a></td>"
            f"<td>{escape(each['status'])}, {escape(each['payment_status'])}</td></tr>"
            for each in self._store.all(KIND)[:_RECENT]
        )
        events = "".join(
            f"<tr><td>{escape(each['type'])}</td>"
            f"<td>{'waits' if each['pending_webhooks'] else 'sent'}</td></tr>"
            for each in self._store.all("event")[:_RECENT]
        )
        body = (
            "<h1>Stripe sandbox</h1><p class='note'>Stripe's wire format, for trying AI Shop out; no money"
            f" moves here.</p><h1>Sessions</h1><table>{sessions}</table><h1>Events</h1><table>{events}</table>"
        )
        return HTMLResponse(_PAGE.format(title="Stripe sandbox", body=body))


def _payment_page(session: Fields, *, declined: bool = False) -> Response:
    if session["status"] == "complete":
        return _message("This purchase is paid. You can close the page.", 409)
    if session["status"] == "expired":
        return _message("This payment page has expired. Go back to the shop and start again.", 410)
    lines = "".join(
        f"<tr><td>{line['quantity']} × {escape(line['description'])}</td>"
        f"<td>{_money(line['amount_total'], session['currency'])}</td></tr>"
        for line in session["line_items"]["data"]
    )
    total = _money(session["amount_total"], session["currency"])
    alert = "<p class='alert' role='alert'>Your card was declined. Try another one.</p>" if declined else ""
    body = (
        f"<h1>AI Shop</h1>{alert}<table>{lines}<tr class='total'><td>Total</td><td>{total}</td></tr></table>"
        "<form method='post'><button class='pay' name='action' value='pay'>Pay " + total + "</button>"
        "<button name='action' value='decline'>Pay with a card that is declined</button>"
        "<button name='action' value='abandon'>Go back without paying</button></form>"
        "<p class='note'>A sandbox: no card is asked for, and no money moves.</p>"
    )
    return HTMLResponse(_PAGE.format(title=f"Pay {total}", body=body), 402 if declined else 200)


def _message(text: str, status: int) -> Response:
    return HTMLResponse(_PAGE.format(title="Payment", body=f"<h1>AI Shop</h1><p>{escape(text)}</p>"), status)


def _money(amount: int, currency: str) -> str:
    units, cents = divmod(amount, 100)
    return f"{units}.{cents:02d} {escape(currency.upper())}"
