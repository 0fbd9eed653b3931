"""Which process a recorded pid means: pids are used again, a pid with its start time is not."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Identity:
    """A process, past or present. `started` counts clock ticks since boot (proc(5), stat field 22)."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> "Identity | None":
        """The process that has this pid now; None when there is none, or only a zombie."""
        try:
            stat = (Path("/proc") / str(pid) / "stat").read_text()
        except OSError:
            return None
        state, *fields = stat.rpartition(")")[2].split()
        return None if state == "Z" else cls(pid, int(fields[18]))

    def is_alive(self) -> bool:
        return Identity.of(self.pid) == self

    def end(self, *, how: signal.Signals, grace_seconds: float) -> None:
        """Signals the process, waits, and kills it when it stays; returns when it is gone."""
        for number, seconds in ((how, grace_seconds), (signal.SIGKILL, 5.0)):
            deadline = time.monotonic() + seconds
            if self.is_alive():
                os.kill(self.pid, number)
            while self.is_alive() and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
