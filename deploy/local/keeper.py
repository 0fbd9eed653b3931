"""One part that is kept running.

States: starting → ready → (died → waiting → starting) …, or held while somebody keeps it down, or given up
when it dies again and again without ever being ready. One that says of itself that it is sick is ended.
"""

import asyncio
import shutil
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

from deploy.local.claim import StackError
from deploy.local.identity import Identity
from deploy.local.logfiles import log_tail, open_log
from deploy.local.parts import ROOT, Part, base_environment

_READY_SECONDS = 60.0
_POLL_SECONDS = 0.05
# A part that says so often in turn that it is sick is ended, and started again.
_LOOK_SECONDS = 2.0
_SICK_LOOKS = 3
_MIN_PAUSE_SECONDS = 0.2
_MAX_PAUSE_SECONDS = 5.0
# A part that dies this often without ever being ready will not be ready by trying once more.
_EARLY_DEATHS = 3
# A child becomes its program only when it is told to, and ends by itself when whoever starts it dies before.
_GATE = 'read -r go && exec "$@" </dev/null'
# The kernel tells it of our end, however that came; without util-linux a later start ends what is left.
_SETPRIV = shutil.which("setpriv")
_SIGNAL_NAMES = {number.value: number.name for number in signal.Signals}


class Kept:
    """Runs a part's process, one life after the other."""

    def __init__(
        self,
        part: Part,
        data: Path,
        *,
        record: Callable[[], None],
        report: Callable[[str], None],
        came_back: Callable[[], None],
    ) -> None:
        """`record` writes down every part's identity, `came_back` is called when the part is ready."""
        self.part = part
        self.identity: Identity | None = None
        # Whoever gives this part orders holds this, so that two orders never start it twice.
        self.turn = asyncio.Lock()
        self._data = data
        self._record = record
        self._report = report
        self._came_back = came_back
        self._ready = asyncio.Event()
        self._held = False
        self._process: asyncio.subprocess.Process | None = None
        self._task = asyncio.create_task(self._keep())

    @property
    def pid(self) -> int | None:
        """None while it is down."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def started(self) -> None:
        """Waits until the part is ready; StackError with the end of its log when it does not get there."""
        ready = asyncio.create_task(self._ready.wait())
        await asyncio.wait([ready, self._task], timeout=_READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            tail = log_tail(self._data, self.part.name)
            raise StackError(f"{self.part.name} did not become ready:\n{tail}")

    def give_up(self) -> None:
        """Lets the process live, but not again."""
        self._held = True

    async def stop(self) -> None:
        """Ends the process and keeps it down."""
        self.give_up()
        process = self._process
        if process and not await end_process(process, self.part.stop_signal, self.part.grace_seconds):
            self._report("did not stop in time and was killed")
        self._task.cancel()
        await asyncio.wait([self._task])

    async def start_again(self, environment: Mapping[str, str]) -> None:
        """Starts a part that is down, with these variables on top of its own; StackError when it is not."""
        if not self._task.done():
            raise StackError(f"{self.part.name} runs already")
        self.part = replace(self.part, environment=self.part.environment | dict(environment))
        self._held = False
        self._task = asyncio.create_task(self._keep())
        await self.started()

    async def _keep(self) -> None:
        pause = _MIN_PAUSE_SECONDS
        was_ever_ready = False
        early_deaths = 0
        while not self._held:
            how = await self._live()
            was_ready = self._ready.is_set()
            self._ready.clear()
            was_ever_ready = was_ever_ready or was_ready
            early_deaths += not was_ever_ready
            if self._held:
                return
            if early_deaths == _EARLY_DEATHS:
                self._report(f"died ({how}), for the last time")
                return
            pause = _MIN_PAUSE_SECONDS if was_ready else pause
            self._report(f"died ({how}), starts again in {pause:.1f} s")
            await asyncio.sleep(pause)
            pause = min(_MAX_PAUSE_SECONDS, pause * 2)

    async def _live(self) -> str:
        """One life; returns how it ended."""
        try:
            with open_log(self._data, self.part.name) as log:
                self._process = await spawn(
                    self.part.command,
                    self.part.environment,
                    log,
                    self._born,
                    end_signal=self.part.stop_signal,
                )
        except OSError as error:
            # A full disk, or no memory for another process: it may pass.
            return str(error)
        probe = asyncio.create_task(self._probe())
        try:
            return _how(await self._process.wait())
        finally:
            probe.cancel()

    def _born(self, identity: Identity | None) -> None:
        self.identity = identity
        self._record()

    async def _probe(self) -> None:
        while not await self._is_ready():
            await asyncio.sleep(_POLL_SECONDS)
        self._ready.set()
        self._report("is ready")
        self._came_back()
        await self._look_after()

    async def _look_after(self) -> None:
        sick_looks = 0
        while self.part.sick is not None:
            await asyncio.sleep(_LOOK_SECONDS)
            sick_looks = sick_looks + 1 if await self.part.sick() else 0
            if sick_looks == _SICK_LOOKS and self._process is not None:
                self._report("says that it is sick, and is ended")
                await end_process(self._process, self.part.stop_signal, self.part.grace_seconds)

    async def _is_ready(self) -> bool:
        try:
            return await self.part.ready()
        except (OSError, TimeoutError):
            return False


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else _SIGNAL_NAMES.get(-code, f"signal {-code}")


async def spawn(
    command: list[str],
    environment: Mapping[str, str],
    log: IO[bytes],
    born: Callable[[Identity | None], None],
    *,
    end_signal: signal.Signals = signal.SIGTERM,
) -> asyncio.subprocess.Process:
    """A child in a session of its own: the terminal's Ctrl-C reaches the supervisor alone. When that is
    killed, the child gets `end_signal`.

    `born` writes the child down before it does anything, so that none is ever left that nobody knows.
    """
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", _GATE, "sh", *_with_us(end_signal), *command),
        cwd=ROOT,
        env=base_environment() | dict(environment),
        stdin=asyncio.subprocess.PIPE,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    assert process.stdin is not None, "asked for above"
    try:
        born(Identity.of(process.pid))
        process.stdin.write(b"go\n")
    finally:
        process.stdin.close()
    return process


def _with_us(end_signal: signal.Signals) -> list[str]:
    return [_SETPRIV, "--pdeathsig", end_signal.name.removeprefix("SIG")] if _SETPRIV else []


async def end_process(process: asyncio.subprocess.Process, how: signal.Signals, grace_seconds: float) -> bool:
    """Signals a child and waits; False when it stayed and had to be killed."""
    if process.returncode is not None:
        return True
    with suppress(ProcessLookupError):
        process.send_signal(how)
    try:
        async with asyncio.timeout(grace_seconds):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        return False
    return True
