"""Scripted accidents: what befalls the next N calls that match."""

from collections import Counter
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from deploy.local.stripe_sandbox.errors import Body
from deploy.local.stripe_sandbox.forms import Tree
from deploy.local.stripe_sandbox.ids import new_id

# Past the 4.5 s that the shop waits for Stripe.
_OUT_OF_PATIENCE_MS = 6_000


class Fault(BaseModel):
    """`status`: this answer and no effect (500 is kept under the idempotency key, as Stripe's own are);
    `timeout_before_effect`, `timeout_after_effect`: silence for `delay_ms`; `error_after_effect`: the effect
    and `status` kept under the key; `cut_after_effect`: the effect, and a connection that breaks before its
    answer is through; `webhook_before_answer`: the session is created and paid, and its events are delivered,
    before the answer (for `delay_ms` at most); `listing_lacks`: a list comes without the objects of `lacks`,
    or empty when that names none, and says that there is no more."""

    model_config = ConfigDict(extra="forbid")

    # A shell pattern: /v1/checkout/sessions/*/expire
    path: str
    method: Literal["GET", "POST", "DELETE"] = "POST"
    # Befalls only calls with these parameters.
    params: dict[str, str] = {}
    lacks: list[str] = []
    # Given when it is added; by it the fault can be taken back alone.
    id: str = Field(default_factory=lambda: new_id("fault_", 14))
    kind: Literal[
        "status",
        "timeout_before_effect",
        "timeout_after_effect",
        "error_after_effect",
        "cut_after_effect",
        "webhook_before_answer",
        "listing_lacks",
    ]
    status: int = Field(default=500, ge=400, le=599)
    count: int = Field(default=1, ge=1, le=1_000_000)
    delay_ms: int | None = Field(default=None, ge=0, le=60_000)

    @property
    def delay_seconds(self) -> float:
        if self.delay_ms is not None:
            return self.delay_ms / 1000
        is_silence = self.kind in ("timeout_before_effect", "timeout_after_effect")
        return _OUT_OF_PATIENCE_MS / 1000 if is_silence else 0

    def matches(self, method: str, path: str, params: Tree) -> bool:
        if method != self.method or not fnmatchcase(path, self.path):
            return False
        return all(params.get(name) == value for name, value in self.params.items())

    def shortened(self, body: Body) -> Body:
        """The list as it comes with this fault."""
        kept = [each for each in body["data"] if self.lacks and each["id"] not in self.lacks]
        return body | {"data": kept, "has_more": body["has_more"] and bool(self.lacks)}


class Faults:
    """In memory: a restarted sandbox has none."""

    def __init__(self) -> None:
        self._scripted: list[Fault] = []
        # How many calls each kind has befallen.
        self.fired: Counter[str] = Counter()

    def add(self, fault: Fault) -> None:
        self._scripted.append(fault)

    def clear(self) -> None:
        self._scripted.clear()

    def remove(self, fault_id: str) -> bool:
        """False when it is there no more."""
        before = len(self._scripted)
        self._scripted = [fault for fault in self._scripted if fault.id != fault_id]
        return len(self._scripted) < before

    def take(self, method: str, path: str, params: Tree) -> Fault | None:
        """The first fault that matches, which has then one call less to befall."""
        for fault in self._scripted:
            if fault.matches(method, path, params):
                fault.count -= 1
                self.fired[fault.kind] += 1
                if not fault.count:
                    self._scripted.remove(fault)
                return fault
        return None

    def left(self) -> int:
        return sum(fault.count for fault in self._scripted)
