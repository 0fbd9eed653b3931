"""`aishop demo`: both purchases and a refund, end to end, on a stack of its own; each step with what it
changed where.
Each image is downloaded; at the end the mailbox is read.

Nothing here knows more than a frontend does: REST, the hosted payment page and the mailbox. The changes are
read from the databases before and after each step, once everything that the step started has ended.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import httpx
from rich.console import Console
from rich.markup import escape

from deploy.local import audit
from deploy.local.demo.changes import Change, Picture, changes, picture
from deploy.local.demo.shopper import Shopper
from deploy.local.ephemeral import running_stack, wait_until
from deploy.local.quiet import is_quiet
from deploy.local.stackfile import StackFile

_SETTLE_SECONDS = 20.0
# Bookkeeping columns that say nothing to a reader.
_HIDDEN = {
    *("created_at", "updated_at", "received_at", "sent_at", "processed_at", "hash_version", "prev_hash"),
    *("next_attempt_at", "lease_token", "lease_until", "attempt_until", "request_hash", "traceparent"),
    *("email_hmac", "request", "idempotency_key", "user_id", "version", "attempts"),
}
_WIDTH = 28


def main() -> int:
    """Runs the demonstration; 0 when every step and the audit at its end went well."""
    console = Console(highlight=False, width=120)
    began = time.monotonic()
    console.print(
        "[bold]AI Shop[/]: starting Postgres, NATS, a Stripe sandbox, a mailbox and the four services …"
    )
    with running_stack() as running:
        console.print(f"ready after {time.monotonic() - began:.1f} s\n")
        demonstration = Demonstration(running.file, console)
        demonstration.run()
        findings = audit.audit(running.file)
    console.print(f"audit: {findings or 'all invariants hold'}")
    console.print(f"done in {time.monotonic() - began:.1f} s")
    return 1 if findings else 0


class Demonstration:
    """The steps, in order, each printed with the rows it wrote."""

    def __init__(self, stack: StackFile, console: Console) -> None:
        self._stack = stack
        self._console = console
        self._shopper = Shopper(stack, email="ada@example.com")
        self._operator = Shopper(stack, email="operator@example.com", operator=True)
        self._number = 0
        self._before: Picture = picture(stack.database_urls)

    def run(self) -> None:
        try:
            self._buy_points()
            self._spend_points()
            by_card = self._buy_by_card()
            self._refund(by_card)
            self._read_mail()
        finally:
            self._shopper.close()
            self._operator.close()

    def _buy_points(self) -> None:
        package = next(
            item for item in self._shopper.get("/api/points/packages")["items"] if item["id"] == "premium"
        )
        body = {"packageId": package["id"], "points": package["points"], "price": package["priceCents"]}
        checkout = self._step(
            f"buy {package['points']} points: POST /api/checkout/points",
            lambda: self._shopper.post("/api/checkout/points", body),
        )
        self._step(
            "pay on Stripe's page: signed webhook → payments → NATS → wallet",
            lambda: self._pay(checkout["url"], lambda: self._profile()["points"] == package["points"]),
        )

    def _spend_points(self) -> None:
        products = [item for item in self._shopper.get("/api/products")["items"] if item["pricePoints"]]
        image = min(products, key=lambda item: item["pricePoints"])
        items = [{"productId": image["id"], "quantity": 1}]
        order = self._step(
            f"spend {image['pricePoints']} points on “{image['title']}”: POST /api/checkout (points)",
            lambda: self._shopper.post("/api/checkout", {"paymentMethod": "points", "items": items}),
        )
        self._download(order["orderId"])

    def _buy_by_card(self) -> str:
        image = self._shopper.get("/api/products")["items"][1]
        items = [{"productId": image["id"], "quantity": 1}]
        order = self._step(
            f"buy “{image['title']}” by card: POST /api/checkout (stripe)",
            lambda: self._shopper.post("/api/checkout", {"paymentMethod": "stripe", "items": items}),
        )
        path = f"/api/orders/{order['orderId']}"
        self._step(
            "pay on Stripe's page: signed webhook → payments → NATS → orders",
            lambda: self._pay(order["url"], lambda: self._shopper.get(path)["status"] == "completed"),
        )
        self._download(order["orderId"])
        return str(order["orderId"])

    def _refund(self, order_id: str) -> None:
        path, body = f"/api/admin/orders/{order_id}/refunds", {"reason": "she changed her mind"}

        def give_back() -> Any:
            refund = self._operator.post(path, body)
            wait_until(
                lambda: self._shopper.get(f"/api/orders/{order_id}")["status"] == "refunded",
                seconds=_SETTLE_SECONDS,
                what="the money is back",
            )
            return refund

        self._step("an operator refunds it, at Stripe too, and its download ends: POST …/refunds", give_back)

    def _download(self, order_id: str) -> None:
        [image] = self._shopper.get(f"/api/orders/{order_id}/downloads")["items"]

        def take() -> Mapping[str, Any]:
            media_type, content = self._shopper.download(image["url"])
            return {"type": media_type, "bytes": len(content)}

        self._step(f"download “{image['title']}”: GET /api/downloads/…", take)

    def _read_mail(self) -> None:
        url = f"{self._stack.mailbox_url}/api/messages"
        mails = httpx.get(url, params={"to": self._shopper.email}).json()["items"]
        self._console.print(f"[bold]mails at {self._shopper.email}[/]")
        for mail in mails:
            self._console.print(f"  {escape(mail['subject'])}")
        assert len(mails) == 3, f"{len(mails)} mails: one for each order and one for the refund were due"
        [receipt, *_] = [mail for mail in mails if ".receipt@" in mail["messageId"]]
        self._console.print("\n[bold]what the receipt says[/]")
        self._console.print("\n".join(f"  {line}" for line in escape(receipt["text"]).splitlines()))
        profile = self._profile()
        self._console.print(f"\n[bold]the profile at the end[/]\n  {profile}\n")

    def _profile(self) -> Any:
        return self._shopper.get("/api/profile")

    def _pay(self, url: str, arrived: Callable[[], bool]) -> Mapping[str, Any]:
        status = self._shopper.pay(url)
        wait_until(arrived, seconds=_SETTLE_SECONDS, what="the payment's effect")
        return {"hosted page": f"HTTP {status}"}

    def _step(self, title: str, act: Callable[[], Any]) -> Any:
        self._number += 1
        self._console.print(f"[bold cyan]{self._number}. {title}[/]")
        began = time.monotonic()
        answer = act()
        self._console.print(
            f"   [dim]{(time.monotonic() - began) * 1000:.0f} ms[/] → {escape(_short(answer))}"
        )
        with suppress(TimeoutError):
            wait_until(lambda: is_quiet(self._stack.database_urls), seconds=_SETTLE_SECONDS, what="quiet")
        after = picture(self._stack.database_urls)
        for change in changes(self._before, after):
            self._console.print(_line(change))
        self._console.print()
        self._before = after
        return answer


def _line(change: Change) -> str:
    colour = {"+": "green", "~": "yellow", "-": "red"}[change.kind]
    shown = {
        name: value for name, value in change.columns.items() if name not in _HIDDEN and value is not None
    }
    cells = ", ".join(f"{name} {_cell(value)}" for name, value in shown.items())
    return f"   [{colour}]{change.kind}[/] [bold]{change.table}[/] {escape(cells)}"


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{_cell(value[0])} → {_cell(value[1])}"
    if isinstance(value, (bytes, memoryview)):
        return f"<{len(bytes(value))} bytes>"
    text = str(value)
    return text if len(text) <= _WIDTH else f"…{text[-8:]}"


def _short(answer: Any) -> str:
    if not isinstance(answer, dict):
        return str(answer)
    return ", ".join(f"{name} {_cell(value)}" for name, value in answer.items() if value is not None)
