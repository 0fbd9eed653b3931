"""Which process a recorded pid means: a pid is used again, a pid with its boot and start time is not."""

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Identity:
    """A process, past or present. `started` counts clock ticks since that boot (proc(5), stat field 22)."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> "Identity | None":
        """The process that has this pid now; None when there is none, or only a zombie."""
        try:
            stat = (Path("/proc") / str(pid) / "stat").read_text()
        except OSError:
            return None
        state, *fields = stat.rpartition(")")[2].split()
        return None if state in "ZX" else cls(pid, int(fields[18]), _boot())

    def is_alive(self) -> bool:
        return Identity.of(self.pid) == self

    def end(self, *, how: signal.Signals, grace_seconds: float) -> None:
        """Signals the process, waits, and kills it when it stays; returns when it is gone."""
        for number, seconds in ((how, grace_seconds), (signal.SIGKILL, 5.0)):
            deadline = time.monotonic() + seconds
            if self.is_alive():
                # It may end between the question and the signal.
                with suppress(ProcessLookupError):
                    os.kill(self.pid, number)
            while self.is_alive() and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)


@cache
def _boot() -> str:
    """Pids and ticks begin again with each boot, and often with the same programs in the same order."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
