"""The stack's ports, all below the ephemeral range: a client that retries a dead port there could be
handed that very port as its own end, and connect to itself."""

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

HOST = "127.0.0.1"
MAX_OFFSET = 1700
DEFAULTS: Mapping[str, int] = {
    "gateway": 8080,
    "webhooks": 8081,
    "stripe": 8082,
    "smtp": 8025,
    "mailbox": 8026,
    "gateway metrics": 9100,
    "wallet metrics": 9101,
    "orders metrics": 9102,
    "payments metrics": 9103,
    "wallet": 15051,
    "orders": 15052,
    "payments": 15053,
    "postgres": 15432,
    "nats": 14222,
    "nats monitor": 14224,
    "valkey": 16379,
}
_LISTEN = "0A"


def shifted(offset: int) -> dict[str, int]:
    """Every port moved by `offset`; ValueError beyond 0 to 1700."""
    if not 0 <= offset <= MAX_OFFSET:
        raise ValueError(f"--port-offset is 0 to {MAX_OFFSET}, not {offset}")
    return {name: port + offset for name, port in DEFAULTS.items()}


@contextmanager
def free_offset() -> Iterator[int]:
    """An offset at which every port of the stack is free, and that no other stack of ours takes meanwhile."""
    # No two default ports that offsets can bring together differ by a multiple of 13: stacks at different
    # offsets never share one.
    offsets = range(104, MAX_OFFSET, 13)
    for offset in random.sample(offsets, len(offsets)):
        with ExitStack() as held:
            if _is_mine(offset, held) and not busy(shifted(offset).values()):
                yield offset
                return
    raise OSError("no free block of ports below the ephemeral range")


def _is_mine(offset: int, held: ExitStack) -> bool:
    """Whether nobody else has the offset, until `held` ends. The file may be another user's: it is read only,
    which a lock needs no more than; what may not even be read is taken."""
    path = Path(tempfile.gettempdir()) / f"aishop-ports-{offset}.lock"
    try:
        lock = _opened(path)
        held.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _opened(path: Path) -> int:
    with suppress(FileNotFoundError):
        # Without O_CREAT: kernels refuse that for a file of somebody else in such a folder.
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    lock = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.fchmod(lock, 0o644)
    return lock


def busy(ports: Iterable[int]) -> list[int]:
    """Those of the ports that someone listens on."""
    return [port for port in ports if not _can_bind(port)]


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def holder(port: int) -> str:
    """Who listens on a port: "pid 123 (command line)"; says so when it cannot be told."""
    inodes = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for process in Path("/proc").glob("[0-9]*"):
        if _holds(process, inodes):
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            return f"pid {process.name} ({command.strip()})"
    return "another user's process"


def _listening_inodes(port: int) -> list[str]:
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        if (path := Path("/proc/net") / table).exists()
        for line in path.read_text().splitlines()[1:]
    ]
    return [row[9] for row in rows if row[3] == _LISTEN and int(row[1].rpartition(":")[2], 16) == port]


def _holds(process: Path, inodes: set[str]) -> bool:
    try:
        return any(os.readlink(descriptor) in inodes for descriptor in (process / "fd").iterdir())
    except OSError:
        # It ended meanwhile, or belongs to someone else.
        return False
