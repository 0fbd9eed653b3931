"""The account's balance: what charges, refunds and disputes moved of it.

Buyers pay in one currency, the account may be settled in another; what a dispute took of a charge is only
known by comparing the two amounts of the balance.
"""

import json

from pydantic import BaseModel, ConfigDict, Field

from deploy.local.stripe_sandbox.objects import balance_transaction
from deploy.local.stripe_sandbox.store import Object, Store

KIND = "balance_transaction"
_SETTLEMENT = "settlement"


class Settlement(BaseModel):
    """In which currency the account is settled; none: each charge in its own."""

    model_config = ConfigDict(extra="forbid")

    currency: str | None = Field(default=None, pattern="^[a-z]{3}$")
    # What one minor unit of a charge is worth in minor units of that currency.
    exchange_rate: float = Field(default=1, gt=0)


def settle_in(store: Store, settlement: Settlement) -> None:
    """Of charges from now on."""
    store.set_switch(_SETTLEMENT, settlement.model_dump_json())


def book_charge(store: Store, charge: Object, *, now: int) -> Object:
    """The charge with the balance transaction of its money."""
    settlement = Settlement.model_validate(json.loads(store.switch(_SETTLEMENT, "{}")))
    is_converted = settlement.currency not in (None, charge["currency"])
    rate = settlement.exchange_rate if is_converted else None
    moved = balance_transaction.build(
        charge,
        kind="charge",
        amount=round(charge["amount"] * (rate or 1)),
        currency=settlement.currency,
        exchange_rate=rate,
        now=now,
    )
    store.add(moved)
    return charge | {"balance_transaction": moved["id"]}


def of_charge(store: Store, charge_id: str) -> Object:
    """The balance transaction of a paid charge; a charge of an earlier release gets it now."""
    charge = store.find("charge", charge_id)
    assert charge is not None, charge_id
    booked = charge.body
    if booked["balance_transaction"] is None:
        booked = book_charge(store, booked, now=booked["created"])
        store.update(booked)
    moved = store.find(KIND, booked["balance_transaction"])
    assert moved is not None, charge_id
    return moved.body


def part_of(store: Store, charge: Object, amount: int) -> int:
    """What an amount of the charge, in its own currency, is in the currency of the balance."""
    share: float = of_charge(store, charge["id"])["amount"] * amount / charge["amount"]
    return round(share)


def book_refund(store: Store, refund: Object, *, kind: str, sign: int, now: int) -> str:
    """The id of the balance transaction of a refund that leaves (-1) or comes back (1)."""
    charge = store.find("charge", refund["charge"])
    assert charge is not None, refund["charge"]
    of_payment = of_charge(store, refund["charge"])
    moved = balance_transaction.build(
        refund,
        kind=kind,
        amount=sign * part_of(store, charge.body, refund["amount"]),
        currency=of_payment["currency"],
        exchange_rate=of_payment["exchange_rate"],
        now=now,
    )
    store.add(moved)
    return str(moved["id"])
