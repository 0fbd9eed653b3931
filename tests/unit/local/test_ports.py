"""Blocks of ports that nobody else takes, whoever the others are."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.local import ports

OFFSETS = range(104, ports.MAX_OFFSET, 13)


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder that everybody may use, and this process without root's rights."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o1777)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        # These tests are about locks: what else runs on this machine does not matter.
        monkeypatch.setattr(ports, "busy", lambda _: [])
        yield Path(folder)


def test_the_lock_of_another_user_is_passed_by(temporary: Path) -> None:
    *closed, free = OFFSETS
    for offset in closed:
        (temporary / f"aishop-ports-{offset}.lock").touch(mode=0)
    was = os.geteuid()
    try:
        if was == 0:
            os.seteuid(65534)
        with ports.free_offset() as offset:
            assert offset == free
    finally:
        os.seteuid(was)


def test_a_lock_that_may_be_read_is_shared_with_whoever_made_it(temporary: Path) -> None:
    with ports.free_offset() as first:
        assert (temporary / f"aishop-ports-{first}.lock").stat().st_mode & 0o777 == 0o644
    with ExitStack() as held:
        taken = {held.enter_context(ports.free_offset()) for _ in range(50)}
        assert len(taken) == 50


def test_a_link_is_not_followed(temporary: Path) -> None:
    for offset in OFFSETS:
        (temporary / f"aishop-ports-{offset}.lock").symlink_to(temporary / "elsewhere")
    with pytest.raises(OSError, match="no free block"), ports.free_offset():
        pass
    assert not (temporary / "elsewhere").exists()
