"""Scripted accidents: what befalls the next N mails."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Fault(BaseModel):
    """`reject_4xx` asks to try again, `reject_5xx` refuses for good; `drop_after_data` keeps the mail and
    hangs up before the 250, so that the sender cannot know."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["reject_4xx", "reject_5xx", "drop_after_data"]
    count: int = Field(default=1, ge=1, le=1_000_000)


class Faults:
    """In memory: a restarted mailbox has none."""

    def __init__(self) -> None:
        self._scripted: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self._scripted.append(fault)

    def clear(self) -> None:
        self._scripted.clear()

    def take(self) -> Fault | None:
        """The fault for this mail, which has then one mail less to befall."""
        if not self._scripted:
            return None
        fault = self._scripted[0]
        fault.count -= 1
        if not fault.count:
            self._scripted.pop(0)
        return fault
