"""Scripted accidents: what befalls the next N calls that match."""

from collections import Counter
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

# Past the 4.5 s that the shop waits for Stripe.
_OUT_OF_PATIENCE_MS = 6_000


class Fault(BaseModel):
    """`status`: this answer and no effect (500 is kept under the idempotency key, as Stripe's own are);
    `timeout_before_effect`, `timeout_after_effect`: silence for `delay_ms`; `error_after_effect`: the effect
    and `status` kept under the key; `cut_after_effect`: the effect, and a connection that breaks before its
    answer is through; `webhook_before_answer`: the session is created and paid, and its events are delivered,
    before the answer (for `delay_ms` at most)."""

    model_config = ConfigDict(extra="forbid")

    # A shell pattern: /v1/checkout/sessions/*/expire
    path: str
    method: Literal["GET", "POST", "DELETE"] = "POST"
    kind: Literal[
        "status",
        "timeout_before_effect",
        "timeout_after_effect",
        "error_after_effect",
        "cut_after_effect",
        "webhook_before_answer",
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

    def matches(self, method: str, path: str) -> bool:
        return method == self.method and fnmatchcase(path, self.path)


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

    def take(self, method: str, path: str) -> Fault | None:
        """The first fault that matches, which has then one call less to befall."""
        for fault in self._scripted:
            if fault.matches(method, path):
                fault.count -= 1
                self.fired[fault.kind] += 1
                if not fault.count:
                    self._scripted.remove(fault)
                return fault
        return None

    def left(self) -> int:
        return sum(fault.count for fault in self._scripted)
