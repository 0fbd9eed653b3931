"""A stack of one's own on free ports in a folder of its own: for the demo, the bench and the tests."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from deploy.local import ports, supervisor
from deploy.local.claim import StackError, clean_up
from deploy.local.identity import Identity
from deploy.local.logfiles import log_tail, open_log
from deploy.local.parts import ROOT, base_environment
from deploy.local.stackfile import StackFile

_START_SECONDS = 90.0
_STOP_SECONDS = 60.0
_POLL_SECONDS = 0.02
_LONGEST_POLL_SECONDS = 0.2


class RunningStack:
    """A stack that somebody may harm: parts are killed, held down, and started with failpoints."""

    def __init__(self, data: Path) -> None:
        self.data = data

    @property
    def file(self) -> StackFile:
        """As it is now: pids change with each restart."""
        return StackFile.read(self.data)

    def kill(self, part: str) -> None:
        """SIGKILL. The supervisor starts the part again."""
        pid = self.file.pids[part]
        assert pid is not None, f"{part} is held down"
        os.kill(pid, signal.SIGKILL)

    def hold(self, part: str) -> None:
        """Stops a part and keeps it down until `release`."""
        supervisor.order(self.data, "stop", part)

    def release(self, part: str) -> None:
        """Starts a held part; returns when it is ready."""
        supervisor.order(self.data, "start", part)

    def restart(self, part: str, environment: Mapping[str, str] | None = None) -> None:
        """Stops and starts a part with these variables on top of its own; returns when it is ready."""
        supervisor.order(self.data, "restart", part, environment)

    def wait_restarted(self, part: str, dead_pid: int, *, seconds: float = 30.0) -> None:
        """Waits until a part that died is ready again under another pid."""
        wait_until(lambda: self.file.pids[part] not in (None, dead_pid), seconds=seconds, what=f"{part} back")

    def log(self, part: str, lines: int = 50) -> str:
        return log_tail(self.data, part, lines)


@contextmanager
def running_stack(*, servers_only: bool = False, prepared: Path | None = None) -> Iterator[RunningStack]:
    """Starts a stack, gives it, and removes it, whatever happens. `servers_only`: without our own parts;
    `prepared`: in a copy of this data folder, whose databases are migrated and seeded."""
    data = Path(tempfile.mkdtemp(prefix="aishop-"))
    try:
        if prepared:
            shutil.copytree(prepared, data, dirs_exist_ok=True)
        with ports.free_offset() as offset:
            options = ["--servers-only"] * servers_only + ["--prepared"] * (prepared is not None)
            process = _spawn(data, offset, options)
            try:
                _wait_ready(process, data)
                yield RunningStack(data)
            finally:
                try:
                    _end(process)
                finally:
                    clean_up(data)
    finally:
        shutil.rmtree(data, ignore_errors=True)


def _wait_ready(process: "subprocess.Popen[bytes]", data: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not (data / "stack.json").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise StackError(f"the stack did not start:\n{log_tail(data, 'supervisor', 40)}")
        time.sleep(_POLL_SECONDS)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    except KeyboardInterrupt:
        # Who cannot wait for a clean end gets a quick one; the parts are ended all the same.
        process.kill()
        process.wait()
        raise
    finally:
        assert process.stdin is not None, "_spawn asks for it"
        process.stdin.close()


def _spawn(data: Path, offset: int, options: list[str]) -> "subprocess.Popen[bytes]":
    arguments = ["up", "--data", str(data), "--port-offset", str(offset), "--for-parent", *options]
    with open_log(data, "supervisor") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "deploy.local.cli", *arguments],
            cwd=ROOT,
            env=base_environment(),
            # Never written to: when we are gone, however that came, it ends, and shop and folder with it.
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def wait_until(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Polls a condition; TimeoutError names what did not come true in time."""
    deadline = time.monotonic() + seconds
    pause = pauses()
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(next(pause))


def pauses() -> Iterator[float]:
    """Seconds between two looks: few at first, then more, since each look at a database costs 8 ms of CPU."""
    pause = _POLL_SECONDS
    while True:
        yield pause
        pause = min(_LONGEST_POLL_SECONDS, pause * 1.25)


def is_gone(pid: int) -> bool:
    """Whether no process has this pid any more."""
    return Identity.of(pid) is None
