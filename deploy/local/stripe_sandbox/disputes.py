"""Disputes: the bank opens, moves and decides them (docs.stripe.com/disputes); the shop may give in.

What a dispute took is what its balance transactions say: a lost one may give a part back, and a bank may turn
its decision around.
"""

from deploy.local.stripe_sandbox import balance
from deploy.local.stripe_sandbox.calls import Call, found, listed
from deploy.local.stripe_sandbox.errors import invalid
from deploy.local.stripe_sandbox.events import Origin, emit
from deploy.local.stripe_sandbox.objects import dispute as objects
from deploy.local.stripe_sandbox.refunds import of_payment
from deploy.local.stripe_sandbox.sandbox import Sandbox
from deploy.local.stripe_sandbox.store import Object, Store

KIND = "dispute"
MOVES = {
    "warning_needs_response": ("warning_under_review", "warning_closed", "needs_response"),
    "warning_under_review": ("warning_closed", "needs_response"),
    "needs_response": ("under_review", "won", "lost"),
    "under_review": ("needs_response", "won", "lost"),
    # Decided anew, with an appeal or without; or a part comes back later.
    "lost": ("appeal_needs_response", "appeal_under_review", "won", "lost"),
    "appeal_needs_response": ("appeal_under_review", "won", "lost"),
    "appeal_under_review": ("won", "lost"),
}
_CLOSED = ("won", "lost", "warning_closed")
# While the money is gone the charge counts as disputed.
_MONEY_GONE = ("needs_response", "under_review", "lost", "appeal_needs_response", "appeal_under_review")
# Stripe speaks of zero, one or two balance transactions of a dispute.
_MAX_MOVED = 2


class NotMovable(Exception):
    """The dispute does not go there from where it is."""


def retrieve(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/disputes/{id}"""
    call.params.finish()
    return found(sandbox, call, KIND, param="dispute")


def list_all(sandbox: Sandbox, call: Call) -> Object:
    """GET /v1/disputes"""
    return listed(sandbox, call, KIND, of_payment(call))


def update(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/disputes/{id}: its metadata"""
    dispute = found(sandbox, call, KIND, param="dispute")
    changed = dispute | {"metadata": call.params.changed_metadata(dispute["metadata"])}
    call.params.finish()
    sandbox.store.update(changed)
    told = "charge.dispute.updated"
    emit(sandbox.store, told, changed, now=call.now, origin=call.origin, previous=dispute)
    return changed


def close(sandbox: Sandbox, call: Call) -> Object:
    """POST /v1/disputes/{id}/close: the shop gives in"""
    dispute = found(sandbox, call, KIND, param="dispute")
    call.params.finish()
    if dispute["status"] in _CLOSED or "lost" not in MOVES[dispute["status"]]:
        raise invalid("This dispute is already closed.", param="dispute", code="dispute_closed")
    return move(sandbox.store, dispute, "lost", now=call.now, origin=call.origin)


def begin(
    store: Store,
    charge: Object,
    *,
    amount: int | None,
    reason: str,
    status: str,
    now: int,
    currency: str | None = None,
    settled_amount: int | None = None,
) -> Object:
    """The bank questions a charge; it holds the money unless it only inquires. In another currency than the
    charge's, `settled_amount` says what that is in the currency of the balance."""
    dispute = objects.build(
        charge,
        amount=amount or charge["amount"],
        currency=currency or charge["currency"],
        reason=reason,
        status=status,
        now=now,
    )
    is_inquiry = status.startswith("warning")
    settled = settled_amount or balance.part_of(store, charge, dispute["amount"])
    stored = dispute if is_inquiry else _withdrawn(store, dispute, settled, now)
    store.add(stored, {"settled_amount": settled})
    _follow(store, stored["charge"])
    emit(store, "charge.dispute.created", stored, now=now, origin=Origin())
    if not is_inquiry:
        emit(store, "charge.dispute.funds_withdrawn", stored, now=now, origin=Origin())
    return stored


def move(
    store: Store,
    dispute: Object,
    status: str,
    *,
    now: int,
    origin: Origin | None = None,
    reinstated: int | None = None,
) -> Object:
    """What the bank did next; NotMovable when there is no such way. `reinstated` comes back of a lost one, in
    the currency of the balance."""
    if status not in MOVES.get(dispute["status"], ()):
        raise NotMovable(f"a dispute does not go from {dispute['status']} to {status}")
    if reinstated is not None and not (status == "lost" and 0 < reinstated <= objects.taken(dispute)):
        raise NotMovable("a part comes back of what a lost dispute has taken")
    moved, funds = _with_money_moved(store, objects.moved(dispute, status), dispute, reinstated, now)
    if moved == dispute:
        raise NotMovable("it is lost already")
    if len(moved["balance_transactions"]) > _MAX_MOVED:
        raise NotMovable("what a dispute took comes back once")
    store.update(moved)
    _follow(store, moved["charge"])
    told = f"charge.dispute.{'closed' if _closes(dispute, status) else 'updated'}"
    emit(store, told, moved, now=now, origin=origin or Origin(), previous=dispute)
    if funds:
        emit(store, f"charge.dispute.funds_{funds}", moved, now=now, origin=origin or Origin())
    return moved


def _closes(before: Object, status: str) -> bool:
    return status in _CLOSED and status != before["status"]


def _with_money_moved(
    store: Store, moved: Object, before: Object, part: int | None, now: int
) -> tuple[Object, str]:
    """A dispute that is open or lost holds the money, a won one or an inquiry does not; else "" is moved."""
    taken, status = objects.taken(moved), moved["status"]
    of_charge = balance.of_charge(store, moved["charge"])
    if part or (status == "won" and taken > 0):
        return objects.reinstated(moved, settled=part or taken, of_charge=of_charge, now=now), "reinstated"
    if status in _MONEY_GONE and status != before["status"] and taken == 0:
        found = store.find(KIND, moved["id"])
        assert found is not None, moved["id"]
        settled = int(found.hidden.get("settled_amount") or moved["amount"])
        return _withdrawn(store, moved, settled, now), "withdrawn"
    return moved, ""


def _withdrawn(store: Store, dispute: Object, settled: int, now: int) -> Object:
    of_charge = balance.of_charge(store, dispute["charge"])
    return objects.withdrawn(dispute, settled=settled, of_charge=of_charge, now=now)


def _follow(store: Store, charge_id: str) -> None:
    """The charge counts as disputed while any of its disputes has taken money."""
    marks = ", ".join("?" * len(_MONEY_GONE))
    charge = store.find("charge", charge_id)
    assert charge is not None, charge_id
    sql = (
        "SELECT count(*) FROM objects WHERE kind = 'dispute' AND json_extract(body, '$.payment_intent') IS ?"
        f" AND json_extract(body, '$.charge') = ? AND json_extract(body, '$.status') IN ({marks})"
    )
    gone = store.execute(sql, charge.body["payment_intent"], charge_id, *_MONEY_GONE).fetchone()[0]
    store.update(charge.body | {"disputed": gone > 0})
