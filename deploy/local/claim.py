"""Who may act in a data folder: one supervisor, or one command that cleans up after a killed one.

The proof of a living supervisor is the lock, which the kernel takes back with the process that held it, and
the name in it: pid, start time and boot, which no other process ever has together. `stack.json` proves
nothing: it outlives a supervisor that was killed, and its pids may be anybody's by then.
"""

import fcntl
import json
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO

from pydantic import TypeAdapter, ValidationError

from deploy.local.identity import Identity
from deploy.local.parts import SERVERS
from deploy.local.secret_store import write_private
from deploy.local.stackfile import NAME

_PIDS = "pids.json"
_POLL_SECONDS = 0.02
# Whoever only looks holds the lock for an instant; a command that ends orphans, for some seconds.
_PATIENCE_SECONDS = 1.0
_CLEANING_SECONDS = 30.0
_ORPHAN_SECONDS = 10.0
_NAME: TypeAdapter[Identity] = TypeAdapter(Identity)
_NAMES: TypeAdapter[dict[str, Identity | None]] = TypeAdapter(dict[str, Identity | None])


class StackError(Exception):
    """Something that the person at the keyboard can mend; the message says how."""


@contextmanager
def claimed(data: Path, *, patience_seconds: float = _PATIENCE_SECONDS) -> Iterator[IO[str]]:
    """Holds the folder as long as the block runs; StackError when somebody else holds it."""
    with (data / "lock").open("a+") as lock:
        deadline = time.monotonic() + patience_seconds
        while not _locks(lock, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise StackError(f"another `aishop` uses {data}: see `aishop status --data {data}`")
            time.sleep(_POLL_SECONDS)
        lock.truncate(0)
        yield lock


def sign(lock: IO[str], holder: Identity) -> None:
    """Names the supervisor in the lock that it holds."""
    lock.write(json.dumps(asdict(holder)))
    lock.flush()


def living_supervisor(data: Path) -> Identity | None:
    """The folder's supervisor, starting, serving or stopping; StackError when a clean-up takes too long."""
    path = data / "lock"
    deadline = time.monotonic() + _CLEANING_SECONDS
    while path.exists() and _is_held(path):
        holder = _named_in(path)
        if holder is not None and holder.is_alive():
            return holder
        if time.monotonic() > deadline:
            raise StackError(f"{data} is being cleaned up by another `aishop`: try again")
        time.sleep(_POLL_SECONDS)
    return None


def _is_held(path: Path) -> bool:
    # Shared, so that two who look do not take each other for a supervisor.
    with path.open() as lock:
        return not _locks(lock, fcntl.LOCK_SH)


def _locks(lock: IO[str], how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _named_in(path: Path) -> Identity | None:
    try:
        return _NAME.validate_json(path.read_bytes())
    except ValidationError:
        # Held by a command that cleans up, or by a supervisor that is about to sign.
        return None


def record(data: Path, processes: Mapping[str, Identity | None]) -> None:
    """Writes down who runs, so that a later start can end what this one could not."""
    known = {name: who and asdict(who) for name, who in processes.items()}
    write_private(data / _PIDS, json.dumps(known))


def recorded(data: Path) -> dict[str, Identity | None]:
    """Who was started last under each name; nobody where the record is missing or damaged."""
    try:
        return _NAMES.validate_json((data / _PIDS).read_bytes())
    except (FileNotFoundError, ValidationError):
        return {}


def forget(data: Path) -> None:
    (data / _PIDS).unlink(missing_ok=True)


def end_orphans(data: Path) -> list[str]:
    """Ends what a killed supervisor left running, the servers last; returns the names. Needs the claim."""
    alive = {name: who for name, who in recorded(data).items() if who is not None and who.is_alive()}
    for name in sorted(alive, key=lambda name: name in SERVERS):
        how = signal.SIGINT if name == "postgres" else signal.SIGTERM
        alive[name].end(how=how, grace_seconds=_ORPHAN_SECONDS)
    forget(data)
    return list(alive)


def clean_up(data: Path) -> list[str]:
    """The same for somebody who has no claim, and a stale `stack.json` goes too.

    It waits for another clean-up; StackError when it meets a supervisor.
    """
    if not any((data / name).exists() for name in (_PIDS, NAME)):
        return []
    with claimed(data, patience_seconds=_CLEANING_SECONDS):
        (data / NAME).unlink(missing_ok=True)
        return end_orphans(data)
