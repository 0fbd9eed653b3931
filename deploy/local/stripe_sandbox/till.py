"""What happens to a session: opened, paid, declined, expired; each with the events that Stripe sends."""

import time
from collections.abc import Callable

from deploy.local.stripe_sandbox import errors
from deploy.local.stripe_sandbox.objects import Fields, charge, event, payment_intent, session
from deploy.local.stripe_sandbox.store import Store

KIND = "checkout.session"


class Till:
    """Every change is one transaction with its events; `announce` wakes the webhooks afterwards."""

    def __init__(self, store: Store, *, public_url: str, announce: Callable[[], None]) -> None:
        self._store = store
        self._public_url = public_url
        self._announce = announce
        self.deliver_webhooks = True

    def open(self, form: Fields) -> Fields:
        opened = session.build(form, now=_now(), public_url=self._public_url)
        with self._store.change():
            self._store.save(opened)
        return opened

    def find(self, id: str) -> Fields:
        found = self._store.find(KIND, id)
        if found is None:
            raise errors.no_such("checkout.session", id, param="session")
        return found

    def pay(self, id: str) -> Fields:
        """The card is charged. The session as it is afterwards; unchanged when it was not open."""
        now = _now()
        with self._store.change():
            current = self.find(id)
            if current["status"] != "open" or current["expires_at"] <= now:
                return current
            intent = self._intent(current, now)
            receipt = charge.build(intent, email=current["customer_email"], now=now)
            intent = payment_intent.succeeded(
                intent, charge_id=receipt["id"], payment_method=receipt["payment_method"]
            )
            paid = current | {
                "status": "complete",
                "payment_status": "paid",
                "payment_intent": intent["id"],
                "url": None,
                "customer_details": {"email": current["customer_email"], "name": None, "phone": None}
                | {"address": None, "tax_exempt": "none", "tax_ids": []},
            }
            for thing in (receipt, intent, paid):
                self._store.save(thing)
            self._emit("charge.succeeded", receipt, now)
            self._emit("payment_intent.succeeded", intent, now)
            self._emit("checkout.session.completed", session.shown(paid), now)
        self._announce()
        return paid

    def decline(self, id: str) -> Fields:
        """The card is refused; the session stays open for another one."""
        now = _now()
        with self._store.change():
            current = self.find(id)
            if current["status"] != "open" or current["expires_at"] <= now:
                return current
            intent = payment_intent.declined(self._intent(current, now))
            self._store.save(intent)
            tried = current | {"payment_intent": intent["id"]}
            self._store.save(tried)
            self._emit("payment_intent.payment_failed", intent, now)
        self._announce()
        return tried

    def expire(self, id: str) -> Fields:
        """Ends an open session; StripeError when it is not open."""
        now = _now()
        with self._store.change():
            current = self.find(id)
            if current["status"] != "open":
                message = f'Only Checkout Sessions with a status in ["open"] can be expired, not {current["status"]}.'
                raise errors.StripeError(400, "invalid_request_error", message)
            expired = current | {
                "status": "expired",
                "url": None,
                "expires_at": min(now, current["expires_at"]),
            }
            self._store.save(expired)
            self._emit("checkout.session.expired", session.shown(expired), now)
        self._announce()
        return expired

    def expire_due(self) -> None:
        """Ends every open session whose time is over, as Stripe does by itself."""
        for each in self._store.all(KIND):
            if each["status"] == "open" and each["expires_at"] <= _now():
                self.expire(each["id"])

    def _intent(self, current: Fields, now: int) -> Fields:
        if current["payment_intent"]:
            known = self._store.find("payment_intent", current["payment_intent"])
            assert known is not None, "an intent is saved with its session"
            return known
        intent = payment_intent.build(current, now=now)
        self._emit("payment_intent.created", intent, now)
        return intent

    def _emit(self, type: str, thing: Fields, now: int) -> None:
        emitted = event.build(type, thing, now=now)
        if not self.deliver_webhooks:
            emitted["pending_webhooks"] = 0
        self._store.save(emitted)
        if self.deliver_webhooks:
            self._store.queue(emitted["id"], time.time())


def _now() -> int:
    return int(time.time())
