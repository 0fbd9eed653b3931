"""Accidents that a test asks for: of the next calls that match, what goes wrong."""

from typing import Literal

from pydantic import BaseModel, Field

Kind = Literal["status", "timeout_before_effect", "timeout_after_effect", "error_after_effect"]


class Fault(BaseModel):
    """`status` answers so without an effect; `error_after_effect` with it, and the answer is stored under the
    idempotency key, as Stripe stores its own 500s. A timeout is no answer for `delay_ms`."""

    path: str
    method: str = "POST"
    kind: Kind
    status: int = Field(default=500, ge=400, le=599)
    count: int = Field(default=1, ge=1, le=100_000)
    delay_ms: int = Field(default=6000, ge=0, le=60_000)


class Faults:
    def __init__(self) -> None:
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self._waiting.append(fault)

    def clear(self) -> None:
        self._waiting.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """The fault for this call, used up by it."""
        for fault in self._waiting:
            if fault.method == method and path.startswith(fault.path):
                fault.count -= 1
                if fault.count == 0:
                    self._waiting.remove(fault)
                return fault
        return None
