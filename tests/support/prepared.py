"""A data folder whose databases are migrated and seeded, made once for all workers of a run.

Each stack starts in a copy: initdb, three migrations and two seeds take 10 s of CPU.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from deploy.local import parts
from deploy.local.ephemeral import RunningStack, running_stack
from deploy.local.secret_store import load_or_draw

_SECONDS = 60


def prepared_folder(shared: Path) -> Path:
    """The folder, in one that the workers share; who comes first makes it, the others wait."""
    return _made_once(shared, "prepared", lambda folder: _migrate_and_seed(folder, prepared_servers(shared)))


def prepared_servers(shared: Path) -> Path:
    """The same with databases that are empty: initdb and the roles alone take 3 s of CPU."""
    return _made_once(shared, "servers", _initialise)


def _made_once(shared: Path, name: str, make: Callable[[Path], None]) -> Path:
    folder = shared / name
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            unfinished = shared / f"{name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished)
            unfinished.rename(folder)
    return folder


def _initialise(folder: Path) -> None:
    with running_stack(servers_only=True) as servers:
        _copy(servers, folder, "postgres")


def _migrate_and_seed(folder: Path, empty: Path) -> None:
    with running_stack(servers_only=True, prepared=empty) as servers:
        for together in parts.one_shots(_plan(servers)):
            processes = [_start(command, environment) for _, command, environment in together]
            for process in processes:
                said, _ = process.communicate(timeout=_SECONDS)
                assert process.returncode == 0, said.decode()
        _copy(servers, folder, "postgres", "assets")


def _copy(servers: RunningStack, folder: Path, *names: str) -> None:
    # Stopped cleanly: a copy of it starts without recovery.
    servers.hold("postgres")
    folder.mkdir()
    shutil.copy(servers.data / "secrets.json", folder)
    for name in names:
        shutil.copytree(servers.data / name, folder / name)


def _plan(servers: RunningStack) -> parts.Plan:
    port = urlsplit(servers.file.database_urls["wallet"]).port
    assert port is not None
    return parts.Plan(
        data=servers.data,
        ports={"postgres": port},
        secrets=load_or_draw(servers.data),
        real_stripe=None,
        extra={},
    )


def _start(command: list[str], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command,
        cwd=parts.ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
