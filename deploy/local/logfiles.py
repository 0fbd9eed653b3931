"""The parts' log files, `logs/<part>.log`: appended to by the part itself, kept small by the supervisor."""

import asyncio
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import IO

_MAX_BYTES = 10 << 20
_LOOK_SECONDS = 30.0


def open_log(data: Path, name: str) -> IO[bytes]:
    """For a child to append to; nobody else's to read."""
    folder = data / "logs"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return open(folder / f"{name}.log", "ab", opener=_private)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def log_tail(data: Path, name: str, lines: int = 15) -> str:
    """The end of a part's log."""
    path = data / "logs" / f"{name}.log"
    if not path.exists():
        return ""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


async def keep_small(data: Path) -> None:
    """Looks after the logs as long as the stack runs: a part that never dies never opens its log again."""
    while True:
        # A full disk is no reason to end; the next look may find room.
        with suppress(OSError):
            trim(data)
        await asyncio.sleep(_LOOK_SECONDS)


def trim(data: Path) -> None:
    """Moves what is too long into `<part>.log.1`.

    The part goes on writing into the same open file, so that it is copied and emptied, not renamed; appending
    starts again at its new end. A line that is written between the two is lost.
    """
    for path in (data / "logs").glob("*.log"):
        if path.stat().st_size > _MAX_BYTES:
            shutil.copyfile(path, path.with_suffix(".log.1"))
            os.truncate(path, 0)
