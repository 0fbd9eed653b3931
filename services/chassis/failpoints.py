"""Named points where a test lets the process crash or fail; nothing at all when unset.

`FAILPOINTS=orders.order_placed.committed=kill,wallet.captured=error@3` kills the process with SIGKILL
at the first hit of the one, and raises at the third hit of the other. Points stand where a crash hurts:
around commits, sends and acks. With `FAILPOINTS_FIRED=FILE` a point fires once however often the process
is started again, so that a whole walk of crashes needs one environment.
"""

import os
import signal
from dataclasses import dataclass
from pathlib import Path


class FailpointError(RuntimeError):
    """Raised where a failpoint says `error`."""


@dataclass
class _Failpoint:
    action: str
    hits_left: int


_armed: dict[str, _Failpoint] = {}
_fired: Path | None = None


def arm(spec: str, fired: Path | None = None) -> None:
    """Arms the points of a FAILPOINTS value; ValueError says which part is malformed.

    Points whose names stand in the file `fired` stay unarmed; those that fire are added to it.
    """
    global _fired
    _fired = fired
    already = fired.read_text().split() if fired is not None and fired.exists() else []
    for part in filter(None, (piece.strip() for piece in spec.split(","))):
        name, _, what = part.partition("=")
        action, _, hits = what.partition("@")
        if action not in ("kill", "error") or not (hits or "1").isdigit():
            raise ValueError(f"FAILPOINTS: {part!r} is not name=kill|error[@N]")
        if name not in already:
            _armed[name] = _Failpoint(action, int(hits or "1"))


def hit(name: str) -> None:
    """Does what the armed point says, once; returns at once when nothing is armed."""
    if not _armed:
        return
    point = _armed.get(name)
    if point is None:
        return
    point.hits_left -= 1
    if point.hits_left:
        return
    del _armed[name]
    if _fired is not None:
        with _fired.open("a") as file:
            file.write(f"{name}\n")
    if point.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise FailpointError(name)
