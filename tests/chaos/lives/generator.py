"""Lives drawn at random: the same seed, the same lives.

What has happened least is the likeliest to happen next, so that a few dozen lives hold every act several
times.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.chaos.lives.acts import Act
from tests.chaos.lives.oracle import (
    PACKAGES,
    PICTURE_POINTS,
    PICTURES,
    Books,
    Payment,
    Sale,
)

# What a life begins with, and the acts for which it is drawn.
KINDS = {
    "points": ("debit_succeeds", "debit_fails", "debit_is_canceled", "decline", "expire", "pay", "spend"),
    "order": ("return_lines", "return_rest", "settle_owed", "write_off_owed"),
    "subscription": (
        *("renew", "renew_late", "renew_with_tax", "renew_with_proration", "renew_by_credit", "renew_in_two"),
        *("renew_partly_by_credit", "renew_outside", "renew_by_charge", "bill_by_hand", "bill_update"),
        *("change_price", "change_interval", "add_item", "credit", "credit_to_balance"),
        *("end_subscription", "end_with_period", "end_at", "period_ends"),
    ),
    "stray": ("give_parked", "refund_parked", "settle_outside", "write_off"),
}
TIMES_IN_FIFTY = 5
_LEAST_ACTS, _MOST_ACTS = 6, 12
_MAKES_POSSIBLE = {
    "debit": ("debit_succeeds", "debit_fails", "debit_is_canceled"),
    "inquire": ("escalate", "close_inquiry"),
    "dispute": ("review", "win", "lose", "lose_in_part"),
    "lose": ("win_after_all", "appeal"),
    "refund_pends": ("refund_succeeds",),
    "refund_fails": ("settle_owed", "write_off_owed"),
}
_INQUIRIES = ("warning_needs_response", "warning_under_review")


@dataclass
class Life:
    number: int
    seed: int
    acts: list[Act] = field(default_factory=list)

    def __str__(self) -> str:
        return f"life {self.number} of seed {self.seed}: {' | '.join(map(str, self.acts))}"


def draw(seed: int, count: int) -> list[Life]:
    done: Counter[str] = Counter()
    return [_Drawing(seed, number, done).draw() for number in range(count)]


def how_often(lives: Sequence[Life]) -> Counter[str]:
    """So often each act happens."""
    return Counter(act.kind for life in lives for act in life.acts)


class _Drawing:
    """One life on its way; the oracle's books say what may happen next."""

    def __init__(self, seed: int, number: int, done: Counter[str]) -> None:
        self._chance = random.Random(f"{seed}:{number}")
        self._life = Life(number, seed)
        self._books = Books()
        self._done = done
        # So often each act is to happen by the end of these fifty lives.
        self._wanted = TIMES_IN_FIFTY * (number // 50 + 1)

    def draw(self) -> Life:
        self._do(self._begins(self._kind()))
        while len(self._life.acts) < _MOST_ACTS:
            possible = list(self._possible())
            kinds = sorted({act.kind for act in possible})
            is_enough = all(self._done[kind] >= self._wanted for kind in kinds)
            if not possible or (is_enough and len(self._life.acts) >= _LEAST_ACTS):
                break
            # Of what has happened least.
            least = self._chance.choices(kinds, [1 / (1 + self._times(kind)) ** 6 for kind in kinds])[0]
            self._do(self._chance.choice([act for act in possible if act.kind == least]))
        return self._life

    def _kind(self) -> str:
        """Of each kind some, and most of the one whose acts are the rarest by now."""
        if self._chance.random() < 0.3:
            return self._chance.choice(sorted(KINDS))
        needs = {kind: sorted(self._done[act] for act in acts)[:3] for kind, acts in KINDS.items()}
        return min(KINDS, key=lambda kind: (sum(needs[kind]), self._chance.random()))

    def _do(self, act: Act) -> None:
        self._books.apply(act)
        self._life.acts.append(act)
        self._done[act.kind] += 1

    def _times(self, kind: str) -> int:
        """How often it, or what only it makes possible, has happened."""
        return min(self._done[each] for each in (kind, *_MAKES_POSSIBLE.get(kind, ())))

    def _begins(self, kind: str) -> Act:
        name = f"s{len(self._books.sales) + 1}"
        if kind == "points":
            return Act("buy_points", name, what=self._chance.choice(sorted(PACKAGES)))
        if kind == "order":
            prices = self._chance.sample(PICTURES, self._chance.randint(1, 3))
            lines = tuple((cents, self._chance.randint(1, 2)) for cents in sorted(prices))
            return Act("place_order", name, lines=lines)
        if kind == "subscription":
            return Act("subscribe", name)
        return Act("stray", name, amount=self._chance.randint(500, 5000), points=self._chance.randint(1, 900))

    def _possible(self) -> Iterator[Act]:
        for name, sale in self._books.sales.items():
            yield from self._until_it_is_paid(name, sale)
            yield from self._decisions(name, sale)
            if sale.kind == "order" and sale.owed:
                for kind in ("settle_owed", "write_off_owed"):
                    reference = f"T-{len(self._life.acts)}"
                    yield Act(kind, name, what=reference, amount=self._part(sale.owed))
        for name, sale, payment in self._books.payments():
            yield from self._refunds_on_their_way(name, payment)
            yield from self._money_back(name, sale, payment)
            yield from self._bank(name, payment)
        yield from self._subscription()
        if self._books.points >= PICTURE_POINTS and not self._books.spent:
            yield Act("spend")
        if "foreign_payment" not in {act.kind for act in self._life.acts}:
            yield Act("foreign_payment", amount=self._chance.randint(100, 5000))
        if len(self._books.sales) == 1 and self._is_over():
            yield self._begins(self._chance.choice(("points", "order")))

    def _is_over(self) -> bool:
        [sale] = self._books.sales.values()
        return sale.status == "failed"

    def _until_it_is_paid(self, name: str, sale: Sale) -> Iterator[Act]:
        if sale.status == "open":
            yield Act("pay", name)
            yield Act("debit", name)
            yield Act("expire", name)
            if Act("decline", name) not in self._life.acts:
                yield Act("decline", name)
        if sale.status == "processing":
            for kind in ("debit_succeeds", "debit_fails", "debit_is_canceled"):
                yield Act(kind, name)

    def _refunds_on_their_way(self, name: str, payment: Payment) -> Iterator[Act]:
        for each, refund in payment.refunds.items():
            if refund.status == "pending":
                yield Act("refund_succeeds", name, each)
            if refund.status in ("pending", "succeeded"):
                yield Act("refund_fails", name, each)

    def _money_back(self, name: str, sale: Sale, payment: Payment) -> Iterator[Act]:
        yield Act("forget_events", name)
        if payment.refunded:
            yield Act("lack_refunds", name, self._chance.choice(sorted(payment.refunds)))
        if payment.is_held or payment.left == 0:
            return
        made = f"r{len(payment.refunds) + 1}"
        for kind in ("refund", "refund_pends"):
            yield Act(kind, name, made, amount=self._part(payment.left))
        if sale.kind == "invoice" and not payment.disputes and len(sale.payments) == 1:
            yield Act("credit", name, made, amount=self._part(payment.left))
            yield Act("credit_to_balance", name, amount=self._part(payment.left))
        if sale.kind == "order":
            yield from self._returns(name, sale, made)

    def _returns(self, name: str, sale: Sale, made: str) -> Iterator[Act]:
        """By an operator: some of what is left of each line, or all that is left."""
        back = sale.with_operators()
        pieces = tuple(
            self._chance.randint(0, quantity - n)
            for (_, quantity), (n, _) in zip(sale.lines, back, strict=True)
        )
        cents = sum(n * price for n, (price, _) in zip(pieces, sale.lines, strict=True))
        room = [
            price * quantity - given for (price, quantity), (_, given) in zip(sale.lines, back, strict=True)
        ]
        fits = all(n * price <= left for n, (price, _), left in zip(pieces, sale.lines, room, strict=True))
        if fits and 0 < cents <= sale.left:
            yield Act("return_lines", name, made, amount=cents, quantities=pieces)
        rest = sum(cents for _, cents in sale.rest())
        if rest:
            yield Act("return_rest", name, made, amount=rest)

    def _part(self, left: int) -> int:
        """A part or all of it."""
        return left if self._chance.random() < 0.35 else self._chance.randint(1, left)

    def _bank(self, name: str, payment: Payment) -> Iterator[Act]:
        for each, dispute in payment.disputes.items():
            yield from self._moves(name, each, dispute.status, dispute.amount, dispute.returned)
        if payment.disputes:
            yield Act("lack_disputes", name, self._chance.choice(sorted(payment.disputes)))
        if payment.left > 0:
            made = f"d{len(payment.disputes) + 1}"
            for kind in ("dispute", "dispute_in_yen", "inquire"):
                yield Act(kind, name, made, amount=self._part(payment.left))

    def _moves(self, name: str, each: str, status: str, amount: int, returned: int) -> Iterator[Act]:
        def move(kind: str, to: str, back: int = 0) -> Act:
            return Act(kind, name, each, to, back)

        if status == "needs_response":
            yield move("review", "under_review")
        if status in ("needs_response", "under_review", "appeal_under_review"):
            yield move("win", "won")
            yield move("lose", "lost")
            if amount > 1:
                yield move("lose_in_part", "lost", self._chance.randint(1, amount - 1))
        if status == "lost" and not returned:
            yield move("win_after_all", "won")
            yield move("appeal", "appeal_under_review")
        if status in _INQUIRIES:
            yield move("close_inquiry", "warning_closed")
            payment = self._books.payment(name)
            if payment.left >= amount and not payment.is_held:
                yield move("escalate", "needs_response")

    def _subscription(self) -> Iterator[Act]:
        if self._books.subscription != "active":
            return
        name = f"s{len(self._books.sales) + 1}"
        if self._books.ends:
            yield Act("period_ends")
            return
        for kind in ("renew", "renew_late"):
            yield Act(kind, name)
        yield Act("renew_with_tax", name, amount=self._chance.randint(1, 400))
        yield Act("renew_with_proration", name, amount=self._chance.choice([-1000, -1, 1, 700]))
        price = self._books.price
        yield Act("renew_by_credit", name, amount=price)
        yield Act("renew_partly_by_credit", name, amount=self._chance.randint(1, price - 1))
        yield Act("renew_in_two", name, amount=self._chance.randint(1, price - 1))
        for kind in ("renew_outside", "renew_by_charge", "bill_by_hand", "bill_update"):
            yield Act(kind, name)
        yield Act("change_price", amount=self._chance.choice([999, 2999]))
        yield Act("add_item", amount=500)
        if Act("change_interval") not in self._life.acts:
            yield Act("change_interval")
        for kind in ("end_subscription", "end_with_period", "end_at"):
            yield Act(kind)

    def _decisions(self, name: str, sale: Sale) -> Iterator[Act]:
        if sale.quarantine_status != "parked" or any(each.is_held for each in sale.payments.values()):
            return
        if not sale.settled_outside and not sale.written_off:
            states = sale.kind == "invoice"
            yield Act("give_parked", name, points=self._chance.randint(1, 400) if states else 0)
        yield Act("settle_outside", name, what=f"T-{len(self._life.acts)}", amount=self._part(sale.due))
        yield Act("write_off", name)
        at_stripe = sum(payment.left for payment in sale.payments.values())
        if at_stripe == sale.due or (at_stripe and len(sale.payments) == 1):
            made = 1 + max(len(payment.refunds) for payment in sale.payments.values())
            yield Act("refund_parked", name, f"r{made}")
