"""What a customer must have after a life, from its acts alone. This file shares no code with the product.

The rules, in plain English:

1.  A *sale* is a checkout for points, an order by card, or an invoice of a subscription. It has none, one or
    several payments, and it grants its points when it is what was agreed, once.
2.  Of a payment is *gone*: what was refunded and did not fail (by whomever; money that is still on its
    way counts), what an open dispute holds, and what a dispute that ended lost has taken. A lost dispute took
    what its balance transactions say: less what was given back of it, and nothing once it is won after all;
    while an appeal is decided, it is open. An inquiry (`warning_*`) and a won dispute hold nothing. A dispute
    in the bank's own currency is about the share of the payment that it took. More than the payment is never
    gone.
3.  A sale's points are worth, *net*: its points less the part of them, rounded down, that is gone of all
    that was paid for it. A customer has the nets of all sales less what was spent; below zero it is a debt.
4.  An order is pending until it is paid, processing while a bank debit is on its way, and failed when its
    session ended or its debit did not come. A paid one is completed while anything of its payment is neither
    refunded nor lost (an open dispute decides nothing), and refunded when nothing is. It leaves `refunded`
    again when money that had gone comes back.
5.  An order's refunded cents are what was refunded of its payment and did not fail, its disputed cents what
    open disputes hold, its lost cents what lost ones took. It owes what the customer was told to get back
    and has not got: the most that was ever refunded at one time, less what is refunded now and what an
    operator settled outside or wrote off; never more than is left of it.
6.  Money that fits nothing gives nothing by itself and is parked: an invoice of another amount than agreed
    (tax, proration, another price, a second item, credit that paid a part of it) or for another reason than
    a period, or that was not paid through Stripe alone; a payment of ours that belongs to no checkout. It is
    due to the customer until it is decided: an operator gives points for it, gives it back, says that the
    customer got (a part of) it elsewhere, or writes it off; and what went back at Stripe, or was lost to a
    bank, is decided by that. What comes back of it is due again.
7.  Payments that bear the mark of another shop are nobody's business here.
8.  The order in which Stripe tells of all this, and whether it tells at all, changes nothing: nor do listings
    that lack something, events of other API versions, and events that nobody can list any more.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.chaos.lives.acts import Act

# What the sample catalogue sells.
PACKAGES = {"basic": (100, 999), "premium": (550, 3999), "pro": (1200, 7999)}
PLAN_POINTS, PLAN_CENTS = 300, 1999
PICTURES = (499, 799, 999, 1299, 1499, 1999, 2499, 2999)
PICTURE_POINTS = 50

_HELD = ("needs_response", "under_review", "appeal_under_review")


@dataclass
class Refund:
    amount: int
    status: str
    # Of an operator's: pieces and cents of each line.
    pieces: tuple[tuple[int, int], ...] = ()


@dataclass
class Dispute:
    amount: int
    status: str
    # Of a lost one, what came back.
    returned: int = 0

    @property
    def gone(self) -> int:
        if self.status in _HELD:
            return self.amount
        return self.amount - self.returned if self.status == "lost" else 0


@dataclass
class Payment:
    amount: int
    refunds: dict[str, Refund] = field(default_factory=dict)
    disputes: dict[str, Dispute] = field(default_factory=dict)

    @property
    def refunded(self) -> int:
        return sum(each.amount for each in self.refunds.values() if each.status in ("pending", "succeeded"))

    @property
    def disputed(self) -> int:
        return sum(each.gone for each in self.disputes.values())

    @property
    def lost(self) -> int:
        return sum(each.gone for each in self.disputes.values() if each.status == "lost")

    @property
    def gone(self) -> int:
        return min(self.amount, self.refunded + self.disputed)

    @property
    def left(self) -> int:
        return self.amount - self.gone

    @property
    def is_held(self) -> bool:
        """A bank decides about a part of it."""
        return any(each.status in _HELD for each in self.disputes.values())


@dataclass
class Sale:
    kind: str
    points: int
    cents: int
    # open, processing, paid, failed; of an invoice always paid.
    status: str = "open"
    payments: dict[str, Payment] = field(default_factory=dict)
    # parked, fulfilled, refunded; none: it was never parked.
    parked: str | None = None
    # Of an order: price and quantity of each line, and the most that was ever refunded of it at one time.
    lines: tuple[tuple[int, int], ...] = ()
    promised: int = 0
    # What the customer got elsewhere, and what the shop keeps, by an operator's word.
    settled_outside: int = 0
    written_off: int = 0

    @property
    def paid(self) -> int:
        """In whatever way: of an invoice all that was billed."""
        return self.cents

    @property
    def gone(self) -> int:
        return sum(payment.gone for payment in self.payments.values())

    @property
    def refunded(self) -> int:
        return sum(payment.refunded for payment in self.payments.values())

    @property
    def lost(self) -> int:
        return sum(payment.lost for payment in self.payments.values())

    @property
    def left(self) -> int:
        """What of it is still with the shop, disputes that are open apart."""
        return max(0, self.paid - self.refunded - self.lost - self.settled_outside)

    @property
    def owed(self) -> int:
        """What the customer was told to get back and has not got."""
        given = self.refunded + self.settled_outside + self.written_off
        return max(0, min(self.promised - given, self.left))

    def with_operators(self) -> list[tuple[int, int]]:
        """Pieces and cents of each line that operators have given back."""
        made = [each for payment in self.payments.values() for each in payment.refunds.values()]
        given = [each.pieces for each in made if each.pieces and each.status != "failed"]
        return [
            (sum(n for n, _ in line), sum(cents for _, cents in line)) for line in zip(*given, strict=True)
        ] or [(0, 0) for _ in self.lines]

    def rest(self) -> tuple[tuple[int, int], ...]:
        """Pieces and cents of each line, when all that is left is given back: the last ones get less."""
        left, parts = self.left, []
        for (price, quantity), (back, cents) in zip(self.lines, self.with_operators(), strict=True):
            taken = min(left, price * quantity - cents) if quantity > back else 0
            parts.append((quantity - back if taken else 0, taken))
            left -= taken
        return tuple(parts)

    @property
    def net_points(self) -> int:
        if self.status != "paid" or self.parked not in (None, "fulfilled"):
            return 0
        return self.points - self.points * self.gone // self.paid if self.points else 0

    @property
    def order_status(self) -> str:
        if self.status != "paid":
            return {"open": "pending"}.get(self.status, self.status)
        return "refunded" if self.is_given_up else "completed"

    @property
    def is_given_up(self) -> bool:
        """Nothing is left: all of it was refunded or lost. What a bank has not decided may come back."""
        return self.left == 0

    @property
    def due(self) -> int:
        """What an operator still has to decide about."""
        back = sum(min(each.amount, each.refunded + each.lost) for each in self.payments.values())
        return max(0, self.cents - back - self.settled_outside - self.written_off)

    @property
    def quarantine_status(self) -> str | None:
        if self.parked != "parked" or self.due:
            return self.parked
        if self.written_off:
            return "written_off"
        return "settled_outside" if self.settled_outside else "refunded"


@dataclass
class Books:
    """One customer's, act by act."""

    sales: dict[str, Sale] = field(default_factory=dict)
    # Status of the subscription, if there is one; what a period is billed now, and what became of it outside.
    subscription: str | None = None
    first_item: int = PLAN_CENTS
    other_items: int = 0
    is_changed: bool = False
    ends: bool = False
    spent: int = 0

    @property
    def price(self) -> int:
        """Of a period."""
        return self.first_item + self.other_items

    def payments(self) -> Iterator[tuple[str, Sale, Payment]]:
        for sale in self.sales.values():
            for name, payment in sale.payments.items():
                yield name, sale, payment

    def payment(self, name: str) -> Payment:
        return next(payment for each, _, payment in self.payments() if each == name)

    def sale_of(self, name: str) -> Sale:
        return next(sale for each, sale, _ in self.payments() if each == name)

    @property
    def points(self) -> int:
        return sum(sale.net_points for sale in self.sales.values()) - self.spent

    def apply(self, act: Act) -> None:
        getattr(self, f"_{act.kind}")(act)

    # What is bought, and how it is paid.

    def _buy_points(self, act: Act) -> None:
        points, cents = PACKAGES[act.what]
        self.sales[act.on] = Sale("points", points, cents)

    def _place_order(self, act: Act) -> None:
        total = sum(cents * quantity for cents, quantity in act.lines)
        self.sales[act.on] = Sale("order", 0, total, lines=act.lines)

    def _stray(self, act: Act) -> None:
        """A payment that bears our metadata and belongs to no checkout."""
        sale = Sale("stray", act.points, act.amount, status="paid", parked="parked")
        sale.payments[f"{act.on}/1"] = Payment(act.amount)
        self.sales[act.on] = sale

    def _subscribe(self, act: Act) -> None:
        self.subscription = "active"
        self._invoice(act.on, PLAN_CENTS)

    def _decline(self, act: Act) -> None:
        """The customer tries again in the same session."""

    def _pay(self, act: Act) -> None:
        sale = self.sales[act.on]
        sale.status = "paid"
        sale.payments[f"{act.on}/1"] = Payment(sale.cents)

    def _debit(self, act: Act) -> None:
        self.sales[act.on].status = "processing"

    def _debit_succeeds(self, act: Act) -> None:
        self._pay(act)

    def _debit_fails(self, act: Act) -> None:
        self.sales[act.on].status = "failed"

    def _debit_is_canceled(self, act: Act) -> None:
        self.sales[act.on].status = "failed"

    def _expire(self, act: Act) -> None:
        self.sales[act.on].status = "failed"

    def _spend(self, act: Act) -> None:
        self.spent += PICTURE_POINTS

    # Money that goes back, and banks.

    def _give_back(self, act: Act, refund: Refund) -> None:
        sale = self.sale_of(act.on)
        sale.payments[act.on].refunds[act.name] = refund
        sale.promised = max(sale.promised, sale.refunded)

    def _refund(self, act: Act) -> None:
        self._give_back(act, Refund(act.amount, "succeeded"))

    def _refund_pends(self, act: Act) -> None:
        self._give_back(act, Refund(act.amount, "pending"))

    def _refund_succeeds(self, act: Act) -> None:
        self.payment(act.on).refunds[act.name].status = "succeeded"

    def _refund_fails(self, act: Act) -> None:
        self.payment(act.on).refunds[act.name].status = "failed"

    def _return_lines(self, act: Act) -> None:
        """An operator gives back pieces of an order."""
        sale = self.sale_of(act.on)
        pieces = tuple((n, n * price) for n, (price, _) in zip(act.quantities, sale.lines, strict=True))
        self._give_back(act, Refund(act.amount, "succeeded", pieces))

    def _return_rest(self, act: Act) -> None:
        """An operator gives back all that is left of an order."""
        self._give_back(act, Refund(act.amount, "succeeded", self.sale_of(act.on).rest()))

    def _dispute(self, act: Act) -> None:
        self.payment(act.on).disputes[act.name] = Dispute(act.amount, "needs_response")

    def _dispute_in_yen(self, act: Act) -> None:
        self._dispute(act)

    def _inquire(self, act: Act) -> None:
        self.payment(act.on).disputes[act.name] = Dispute(act.amount, "warning_needs_response")

    def _move_dispute(self, act: Act) -> None:
        dispute = self.payment(act.on).disputes[act.name]
        dispute.status = act.what
        dispute.returned = act.amount if act.what == "lost" else 0

    _review = _close_inquiry = _escalate = _win = _lose = _lose_in_part = _move_dispute
    _appeal = _win_after_all = _move_dispute

    # Subscriptions.

    def _renew(self, act: Act) -> None:
        self._invoice(act.on, self.price)

    def _renew_late(self, act: Act) -> None:
        """The card fails, and the invoice is paid by hand later."""
        self._invoice(act.on, self.price)

    def _renew_with_tax(self, act: Act) -> None:
        self._invoice(act.on, self.price + act.amount)

    _renew_with_proration = _renew_with_tax

    def _renew_by_credit(self, act: Act) -> None:
        """The customer's credit balance pays all of it, or a part."""
        self._invoice(act.on, self.price, by_card=(self.price - act.amount,))

    _renew_partly_by_credit = _renew_by_credit

    def _renew_outside(self, act: Act) -> None:
        self._invoice(act.on, self.price, by_card=())

    _renew_by_charge = _renew_outside

    def _renew_in_two(self, act: Act) -> None:
        self._invoice(act.on, self.price, by_card=(act.amount, self.price - act.amount))

    def _bill_by_hand(self, act: Act) -> None:
        self._invoice(act.on, self.price, is_period=False)

    _bill_update = _bill_by_hand

    def _credit(self, act: Act) -> None:
        """A credit note gives money of a paid invoice back to the card."""
        self._refund(act)

    def _credit_to_balance(self, act: Act) -> None:
        """The customer may spend it later; of what was paid nothing goes back."""

    def _change_price(self, act: Act) -> None:
        self.first_item, self.is_changed = act.amount, True

    def _add_item(self, act: Act) -> None:
        self.other_items, self.is_changed = self.other_items + act.amount, True

    def _change_interval(self, act: Act) -> None:
        self.is_changed = True

    def _end_subscription(self, act: Act) -> None:
        self.subscription = "canceled"

    def _end_with_period(self, act: Act) -> None:
        self.ends = True

    _end_at = _end_with_period

    def _period_ends(self, act: Act) -> None:
        self.subscription = "canceled"

    def _invoice(
        self, name: str, cents: int, *, by_card: tuple[int, ...] | None = None, is_period: bool = True
    ) -> None:
        """Agreed is the plan's price for a period, paid by card alone. Where prorations leave nothing to be
        billed, nothing was sold."""
        if cents <= 0:
            self.sales[name] = Sale("invoice", 0, 0, status="paid")
            return
        parts = [part for part in ((cents,) if by_card is None else by_card) if part]
        is_agreed = is_period and cents == PLAN_CENTS == sum(parts)
        sale = Sale("invoice", PLAN_POINTS, cents, status="paid", parked=None if is_agreed else "parked")
        for number, part in enumerate(parts, start=1):
            sale.payments[f"{name}/{number}"] = Payment(part)
        self.sales[name] = sale

    # Trouble, which changes nothing.

    def _lack_refunds(self, act: Act) -> None:
        """Listings come without refunds that the shop knows of."""

    _lack_disputes = _forget_events = _lack_refunds

    def _foreign_payment(self, act: Act) -> None:
        """Another copy of this shop sells on the same account."""

    # Operators.

    def _give_parked(self, act: Act) -> None:
        sale = self.sales[act.on]
        sale.parked, sale.points = "fulfilled", act.points or sale.points

    def _settle_outside(self, act: Act) -> None:
        self.sales[act.on].settled_outside += act.amount

    def _settle_owed(self, act: Act) -> None:
        self.sales[act.on].settled_outside += act.amount

    def _write_off_owed(self, act: Act) -> None:
        self.sales[act.on].written_off += act.amount

    def _write_off(self, act: Act) -> None:
        sale = self.sales[act.on]
        sale.written_off += sale.due

    def _refund_parked(self, act: Act) -> None:
        """Of what is left; when that comes back after all, the sale is parked again."""
        sale = self.sales[act.on]
        for payment in sale.payments.values():
            amount = min(sale.due, payment.left)
            if amount:
                payment.refunds[act.name] = Refund(amount, "succeeded")
