"""A relay in a process of its own, which a test may freeze: `python -m tests.support.relaying …`."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import SecretStr

from services.chassis import logs
from services.chassis.bus import Bus
from services.chassis.relay import Relay
from services.chassis.workers import background

_STOP_SECONDS = 10.0


class RelayProcess:
    """What it logs can be read line by line."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def log_until(self, event: str) -> str:
        """Its next line about that; the test's own time-out ends the wait."""
        assert self._process.stdout is not None, "asked for below"
        for line in self._process.stdout:
            if event in line:
                return line
        raise AssertionError(f"the relay ended without {event}")


@contextmanager
def relay_process(*, url: str, nats_url: str, stream: str, lease_seconds: float) -> Iterator[RelayProcess]:
    arguments = [url, nats_url, stream, str(lease_seconds)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.relaying", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield RelayProcess(process)
    finally:
        # A frozen process dies only of this.
        process.kill()
        process.communicate(timeout=_STOP_SECONDS)


async def _relay(url: str, nats_url: str, stream: str, lease_seconds: str) -> None:
    bus = Bus(SecretStr(nats_url), name="other", stream=stream)
    relay = Relay(
        database_url=SecretStr(url),
        bus=bus,
        source="other",
        poll_seconds=0.02,
        lease_seconds=float(lease_seconds),
    )
    async with background(bus.run(), relay.run()):
        await asyncio.Event().wait()


if __name__ == "__main__":
    logs.configure("other", "INFO")
    asyncio.run(_relay(*sys.argv[1:]))
