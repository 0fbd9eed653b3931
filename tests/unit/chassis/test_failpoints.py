"""Failpoints: nothing when unset, once when armed, once across restarts with a file."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.chassis import failpoints


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints._armed.clear()


def test_an_unarmed_point_does_nothing() -> None:
    failpoints.hit("anything")


def test_an_armed_point_fires_at_its_hit_and_once() -> None:
    failpoints.arm("a=error@2, b=error")
    failpoints.hit("a")
    with pytest.raises(failpoints.FailpointError, match="a"):
        failpoints.hit("a")
    failpoints.hit("a")
    with pytest.raises(failpoints.FailpointError, match="b"):
        failpoints.hit("b")


@pytest.mark.parametrize("spec", ["a", "a=", "a=explode", "a=kill@x"])
def test_a_malformed_point_is_named(spec: str) -> None:
    with pytest.raises(ValueError, match="FAILPOINTS"):
        failpoints.arm(spec)


def test_a_kill_is_a_kill_and_fires_once_across_restarts(tmp_path: Path) -> None:
    fired = tmp_path / "fired"
    code = (
        "from pathlib import Path; from services.chassis import failpoints;"
        f"failpoints.arm('a=kill', Path({str(fired)!r})); failpoints.hit('a')"
    )
    runs = [subprocess.run([sys.executable, "-c", code], check=False).returncode for _ in range(2)]
    assert runs == [-signal.SIGKILL, 0]
    assert fired.read_text() == "a\n"
