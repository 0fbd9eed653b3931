"""Lives a life at the running shop: each act is done where it happens in the world, one after the other.

What a customer or a bank does needs no one's consent. Before an act of an operator, or one that spends
points, the shop must have heard of what has happened: the actor waits until it says what the oracle says.
"""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from tests.chaos.lives.acts import Act
from tests.chaos.lives.generator import Life
from tests.chaos.lives.oracle import PICTURES, Books
from tests.chaos.lives.shop import JSON, Pauses, Refused, Shop

# Events by which the shop hears of money that goes back.
_ORDER = ("status", "refundedCents", "disputedCents", "lostCents", "owedCents")
_MONEY = ("refund.", "charge.refunded", "charge.dispute.c", "charge.dispute.u")
# With every webhook of a life dropped, the next comparison brings all of it.
_PATIENCE_SECONDS = 180.0


class Actor:
    def __init__(self, shop: Shop, life: Life, products: dict[int, str]) -> None:
        self.life = life
        self.user = uuid4()
        # A little before, should clocks differ.
        self._born = datetime.now(UTC)
        self.books = Books()
        self._shop = shop
        # By price: what the oracle knows of a picture.
        self._products = products
        # What the shop and Stripe call what the life calls s1, s1/1, s1/1 r1.
        self.ids: dict[str, str] = {}
        self._urls: dict[str, str] = {}
        self._subscription = ""
        self._seen = 0

    async def live(self) -> str:
        """What went wrong, or nothing."""
        self._born = datetime.now(UTC) - timedelta(seconds=5)
        for act in self.life.acts:
            try:
                await getattr(self, f"_{act.kind}")(act)
            except (AssertionError, Refused) as error:
                return f"{self.life}\nat {act}: {error}"
            self.books.apply(act)
        return ""

    # What the shop says of this customer, and what it must say.

    async def seen(self, *, fresh: bool = False) -> JSON:
        profile = await self._shop.ask("GET", "/api/profile", user=self.user)
        orders = [name for name, sale in self.books.sales.items() if sale.kind == "order"]
        view: JSON = {"points": profile["points"] - profile["pointsDebt"]}
        for name in orders:
            order = await self._shop.ask("GET", f"/api/orders/{self.ids[name]}", user=self.user)
            view[name] = {each: order[each] for each in _ORDER}
        if self.books.subscription:
            theirs = (await self._shop.ask("GET", "/api/subscriptions", user=self.user))["items"]
            shown = ("status", "cancelAtPeriodEnd", "changedOutside")
            view["subscription"] = {name: theirs[0][name] for name in shown} if theirs else None
        names = {identity: name for name, identity in self.ids.items()}
        view["parked"] = {
            names[row["paymentIntentId"] or row["invoiceId"]].partition("/")[0]: _decided(
                row["status"], row["dueCents"]
            )
            for row in await self._shop.parked(since=self._born, fresh=fresh)
            if row["paymentIntentId"] in names or row["invoiceId"] in names
        }
        return view

    def expected(self) -> JSON:
        books = self.books
        view: JSON = {"points": books.points}
        for name, sale in books.sales.items():
            if sale.kind == "order":
                disputed = sum(payment.disputed for payment in sale.payments.values())
                cents = (sale.refunded, disputed - sale.lost, sale.lost, sale.owed)
                view[name] = dict(zip(_ORDER, (sale.order_status, *cents), strict=True))
        if books.subscription:
            view["subscription"] = {
                "status": books.subscription,
                "cancelAtPeriodEnd": books.ends,
                "changedOutside": books.is_changed,
            }
        view["parked"] = {
            name: _decided(sale.quarantine_status, sale.due)
            for name, sale in books.sales.items()
            if sale.quarantine_status
        }
        return view

    async def agreed(self, *, within_seconds: float = _PATIENCE_SECONDS) -> None:
        """Once the shop has heard of everything."""
        pauses = Pauses(within_seconds=within_seconds)
        while (seen := await self.seen()) != (expected := self.expected()):
            if not await pauses.pause():
                raise AssertionError(f"the shop says {seen}, the oracle {expected}")

    async def _heard(self, payment: str) -> None:
        """Once the shop has handled all that Stripe told of a payment's money: then an operator decides by
        what is true."""
        await self.agreed()
        pauses = Pauses(within_seconds=_PATIENCE_SECONDS)
        while unheard := await self._unheard(self.ids[payment]):
            assert await pauses.pause(), f"never handled: {unheard}"

    async def _unheard(self, intent: str) -> set[str]:
        told = {event["id"] for event in await self._shop.told(intent) if event["type"].startswith(_MONEY)}
        path = f"/api/admin/stripe/events?search={intent}&limit=100"
        known = (await self._shop.ask("GET", path))["items"]
        return told - {event["id"] for event in known if event["status"] not in ("received", "failed")}

    # Customers.

    async def _buy_points(self, act: Act) -> None:
        opened = await self._ask("POST", "/api/checkout/points", {"packageId": act.what})
        self.ids[act.on] = opened["checkoutId"]
        await self._open(act.on, opened, f"/api/checkouts/{opened['checkoutId']}")

    async def _place_order(self, act: Act) -> None:
        items = [{"productId": self._products[cents], "quantity": quantity} for cents, quantity in act.lines]
        opened = await self._ask("POST", "/api/checkout", {"paymentMethod": "stripe", "items": items})
        self.ids[act.on] = opened["orderId"]
        await self._open(act.on, opened, f"/api/orders/{opened['orderId']}")

    async def _open(self, name: str, opened: JSON, path: str) -> None:
        """The page, also when it is opened only after the answer."""
        pauses = Pauses(within_seconds=_PATIENCE_SECONDS)
        while not opened.get("url"):
            assert await pauses.pause(), f"no page is opened: {opened}"
            opened = await self._ask("GET", path)
        self._urls[name] = opened["url"]

    async def _subscribe(self, act: Act) -> None:
        opened = await self._ask("POST", "/api/subscriptions", {"planId": "monthly"})
        await self._open(act.on, opened, f"/api/checkouts/{opened['checkoutId']}")
        await self._shop.press(self._urls[act.on], "pay")
        session = await self._shop.stripe("GET", f"checkout/sessions/{self._session(act.on)}")
        self._subscription = session["subscription"]
        await self._bill(act.on)

    async def _bill(self, name: str) -> None:
        """The latest invoice is this sale's, and its payments are."""
        theirs = await self._shop.stripe("GET", f"subscriptions/{self._subscription}")
        self.ids[name] = theirs["latest_invoice"]
        listed = await self._shop.stripe("GET", "invoice_payments", invoice=self.ids[name])
        for number, payment in enumerate(reversed(listed["data"]), start=1):
            self.ids[f"{name}/{number}"] = payment["payment"].get("payment_intent", "")

    async def _pay(self, act: Act) -> None:
        await self._shop.press(self._urls[act.on], "pay")
        await self._know_intent(act.on)

    async def _decline(self, act: Act) -> None:
        await self._shop.press(self._urls[act.on], "decline")

    async def _debit(self, act: Act) -> None:
        await self._shop.press(self._urls[act.on], "pay_later")
        await self._know_intent(act.on)

    async def _know_intent(self, name: str) -> None:
        session = await self._shop.stripe("GET", f"checkout/sessions/{self._session(name)}")
        self.ids[f"{name}/1"] = session["payment_intent"]

    async def _end_debit(self, act: Act, outcome: str) -> None:
        await self._shop.control(f"sessions/{self._session(act.on)}/delayed_payment", outcome=outcome)

    async def _debit_succeeds(self, act: Act) -> None:
        await self._end_debit(act, "succeeded")

    async def _debit_fails(self, act: Act) -> None:
        await self._end_debit(act, "failed")

    async def _debit_is_canceled(self, act: Act) -> None:
        await self._end_debit(act, "canceled")

    async def _expire(self, act: Act) -> None:
        await self._shop.control(f"sessions/{self._session(act.on)}/expire_now")

    async def _spend(self, act: Act) -> None:
        await self.agreed()
        items = [{"productId": self._products[PICTURES[0]], "quantity": 1}]
        await self._ask("POST", "/api/checkout", {"paymentMethod": "points", "items": items})

    async def _stray(self, act: Act) -> None:
        metadata = {
            "user_id": str(self.user),
            "points_amount": str(act.points),
            "checkout_id": str(uuid4()),
        }
        intent = await self._shop.control("payments", amount=act.amount, currency="usd", metadata=metadata)
        self.ids[f"{act.on}/1"] = intent["id"]

    async def _foreign_payment(self, act: Act) -> None:
        metadata = {"user_id": str(self.user), "shop": "another", "checkout_id": str(uuid4())}
        await self._shop.control("payments", amount=act.amount, currency="usd", metadata=metadata)

    def _session(self, name: str) -> str:
        return self._urls[name].rpartition("/")[2]

    async def _ask(self, method: str, path: str, body: Any = None) -> JSON:
        return await self._shop.ask(method, path, user=self.user, body=body)

    # The dashboard and the bank.

    async def _refund(self, act: Act) -> None:
        intent = self.ids[act.on]
        made = await self._shop.stripe("POST", "refunds", payment_intent=intent, amount=act.amount)
        self.ids[f"{act.on} {act.name}"] = made["id"]

    async def _refund_pends(self, act: Act) -> None:
        await self._shop.control("refunds", status="pending", payment_intent=self.ids[act.on])
        await self._refund(act)

    async def _refund_succeeds(self, act: Act) -> None:
        await self._shop.control(f"refunds/{self.ids[f'{act.on} {act.name}']}", status="succeeded")

    async def _refund_fails(self, act: Act) -> None:
        if self.books.sales[act.on.partition("/")[0]].kind == "order":
            # The shop has told the customer of it: only then is it owed.
            await self._heard(act.on)
        await self._shop.control(f"refunds/{self.ids[f'{act.on} {act.name}']}", status="failed")

    async def _begin_dispute(self, act: Act, **how: Any) -> None:
        begun = await self._shop.control("disputes", payment_intent=self.ids[act.on], **how)
        self.ids[f"{act.on} {act.name}"] = begun["id"]

    async def _dispute(self, act: Act) -> None:
        await self._begin_dispute(act, amount=act.amount)

    async def _dispute_in_yen(self, act: Act) -> None:
        """The balance is in dollars, and so says what the yen took of the payment."""
        await self._begin_dispute(act, amount=act.amount * 3, currency="jpy", settled_amount=act.amount)

    async def _inquire(self, act: Act) -> None:
        await self._begin_dispute(act, amount=act.amount, status="warning_needs_response")

    async def _move_dispute(self, act: Act) -> None:
        back = {"reinstated": act.amount} if act.amount else {}
        await self._shop.control(f"disputes/{self.ids[f'{act.on} {act.name}']}", status=act.what, **back)

    _review = _close_inquiry = _escalate = _win = _lose = _lose_in_part = _move_dispute
    _appeal = _win_after_all = _move_dispute

    # Subscriptions.

    async def _renew(self, act: Act, **terms: Any) -> None:
        await self._shop.control(f"subscriptions/{self._subscription}/renew", **terms)
        await self._bill(act.on)

    async def _renew_with_tax(self, act: Act) -> None:
        await self._renew(act, tax=act.amount)

    async def _renew_with_proration(self, act: Act) -> None:
        await self._renew(act, proration=act.amount)

    async def _renew_by_credit(self, act: Act) -> None:
        await self._renew(act, balance=act.amount)

    _renew_partly_by_credit = _renew_by_credit

    async def _renew_outside(self, act: Act) -> None:
        await self._renew(act, by="out_of_band")

    async def _renew_by_charge(self, act: Act) -> None:
        await self._renew(act, by="charge")

    async def _renew_in_two(self, act: Act) -> None:
        await self._renew(act, parts=[act.amount, self.books.price - act.amount])

    async def _bill_between(self, act: Act, reason: str) -> None:
        where = f"subscriptions/{self._subscription}/invoice"
        await self._shop.control(where, billing_reason=reason)
        await self._bill(act.on)

    async def _bill_by_hand(self, act: Act) -> None:
        await self._bill_between(act, "manual")

    async def _bill_update(self, act: Act) -> None:
        await self._bill_between(act, "subscription_update")

    async def _credit(self, act: Act) -> None:
        invoice = self.ids[act.on.partition("/")[0]]
        note = await self._shop.control(f"invoices/{invoice}/credit_note", amount=act.amount, how="refund")
        self.ids[f"{act.on} {act.name}"] = note["refunds"][0]["refund"]

    async def _credit_to_balance(self, act: Act) -> None:
        invoice = self.ids[act.on.partition("/")[0]]
        await self._shop.control(f"invoices/{invoice}/credit_note", amount=act.amount, how="balance")

    async def _change_items(self, **change: Any) -> None:
        await self._shop.control(f"subscriptions/{self._subscription}/items", **change)

    async def _change_price(self, act: Act) -> None:
        await self._change_items(unit_amount=act.amount)

    async def _add_item(self, act: Act) -> None:
        await self._change_items(add_unit_amount=act.amount)

    async def _change_interval(self, _: Act) -> None:
        await self._change_items(interval="week")

    async def _renew_late(self, act: Act) -> None:
        where = f"subscriptions/{self._subscription}/next_payment"
        await self._shop.control(where, outcome="fail")
        await self._renew(act)
        await self._shop.control(where, outcome="succeed")
        await self._shop.stripe("POST", f"invoices/{self.ids[act.on]}/pay")

    async def _end_subscription(self, _: Act) -> None:
        await self._shop.stripe("DELETE", f"subscriptions/{self._subscription}")

    async def _end_with_period(self, _: Act) -> None:
        """The customer asks the shop."""
        await self.agreed()
        [theirs] = (await self._ask("GET", "/api/subscriptions"))["items"]
        await self._ask("DELETE", f"/api/subscriptions/{theirs['id']}")

    async def _end_at(self, _: Act) -> None:
        """As Stripe's portal has it."""
        theirs = await self._shop.stripe("GET", f"subscriptions/{self._subscription}")
        at = theirs["items"]["data"][0]["current_period_end"]
        await self._shop.stripe("POST", f"subscriptions/{self._subscription}", cancel_at=at)

    async def _period_ends(self, _: Act) -> None:
        await self._shop.control(f"subscriptions/{self._subscription}/renew")

    # Trouble.

    async def _lack(self, act: Act, kind: str) -> None:
        """The next listing that is asked for after what the shop has heard of lacks something; and there is
        something to look for."""
        await self._heard(act.on)
        lacks, intent = self.ids[f"{act.on} {act.name}"], self.ids[act.on]
        fault = {"method": "GET", "path": f"/v1/{kind}", "kind": "listing_lacks", "lacks": [lacks]}
        await self._shop.control("faults", params={"payment_intent": intent}, **fault)
        self._seen += 1
        await self._shop.stripe("POST", f"{kind}/{lacks}", **{"metadata[seen]": str(self._seen)})

    async def _lack_refunds(self, act: Act) -> None:
        await self._lack(act, "refunds")

    async def _lack_disputes(self, act: Act) -> None:
        await self._lack(act, "disputes")

    async def _forget_events(self, act: Act) -> None:
        await self._shop.control("forget_events", about=[self.ids[act.on]])

    # Operators.

    async def _return_lines(self, act: Act) -> None:
        await self._heard(act.on)
        sale = self.books.sales[act.on.partition("/")[0]]
        items = [
            {"productId": self._products[cents], "quantity": quantity}
            for (cents, _), quantity in zip(sale.lines, act.quantities, strict=True)
            if quantity
        ]
        await self._return(act, items=items)

    async def _return_rest(self, act: Act) -> None:
        await self._heard(act.on)
        await self._return(act)

    async def _return(self, act: Act, **what: Any) -> None:
        path = f"/api/admin/orders/{self.ids[act.on.partition('/')[0]]}/refunds"
        await self._shop.ask("POST", path, body={"reason": "a random life", **what})
        await self._know_refund(act)

    async def _settle_owed(self, act: Act) -> None:
        await self._decide_owed(act, "settle", reference=act.what)

    async def _write_off_owed(self, act: Act) -> None:
        await self._decide_owed(act, "write-off")

    async def _decide_owed(self, act: Act, decision: str, **more: Any) -> None:
        await self._heard(f"{act.on}/1")
        body = {"amountCents": act.amount, "reason": "a random life", **more}
        await self._shop.ask("POST", f"/api/admin/orders/{self.ids[act.on]}/owed/{decision}", body=body)

    async def _give_parked(self, act: Act) -> None:
        await self._decide(act, "fulfil", **({"points": act.points} if act.points else {}))

    async def _settle_outside(self, act: Act) -> None:
        await self._decide(act, "settle-outside", amountCents=act.amount, reference=act.what)

    async def _write_off(self, act: Act) -> None:
        await self._decide(act, "write-off")

    async def _refund_parked(self, act: Act) -> None:
        await self._decide(act, "refund")
        for name, payment in self.books.sales[act.on].payments.items():
            if payment.left:
                await self._know_refund(Act(act.kind, name, act.name))

    async def _decide(self, act: Act, decision: str, **more: Any) -> None:
        for payment in self.books.sales[act.on].payments:
            await self._heard(payment)
        await self.agreed()
        names = {self.ids.get(act.on), self.ids.get(f"{act.on}/1")} - {None, ""}
        rows = await self._shop.parked(since=self._born, fresh=True)
        [row] = [each for each in rows if {each["paymentIntentId"], each["invoiceId"]} & names]
        body = {"reason": "a random life", **more}
        await self._shop.ask("POST", f"/api/admin/quarantine/{row['id']}/{decision}", body=body)

    async def _know_refund(self, act: Act) -> None:
        """The refund that the shop has made at Stripe."""
        pauses = Pauses(within_seconds=_PATIENCE_SECONDS)
        while True:
            listed = await self._shop.stripe("GET", "refunds", payment_intent=self.ids[act.on])
            new = [each["id"] for each in listed["data"] if each["id"] not in self.ids.values()]
            if new:
                self.ids[f"{act.on} {act.name}"] = new[0]
                return
            assert await pauses.pause(), "no refund is made at Stripe"


def _decided(status: str, due: int) -> str:
    """How a sale stands in the quarantine."""
    return f"{status}: {due} due" if status == "parked" else status
