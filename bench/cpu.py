"""CPU time of processes, out of /proc: user and system, of a process and of its children."""

import os
from collections.abc import Mapping
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def cpu_ms(pids: Mapping[str, int | None]) -> dict[str, float]:
    """CPU milliseconds that each named process has used so far, its children (Postgres) included."""
    children = _children()
    return {name: _own_and_reaped(pid) + _living(children, pid) for name, pid in pids.items() if pid}


def _own_and_reaped(pid: int) -> float:
    fields = _fields(pid)
    return _as_ms(sum(int(ticks) for ticks in fields[11:15])) if fields else 0.0


def _living(children: Mapping[int, list[int]], pid: int) -> float:
    return sum(_own_and_reaped(child) + _living(children, child) for child in children.get(pid, []))


def _children() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        fields = _fields(int(entry.name))
        if fields:
            found.setdefault(int(fields[1]), []).append(int(entry.name))
    return found


def _fields(pid: int) -> list[str]:
    """proc(5) stat from the third field on: state, ppid, …, utime, stime, cutime, cstime at 11 to 14."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _as_ms(ticks: int) -> float:
    return ticks * 1000 / _TICKS_PER_SECOND
