"""docs/backup.md, as it stands: its blocks are run by a shell, with a Docker of our own that has folders for
volumes and does in them what the containers would, with a real Postgres and its real pg_basebackup."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from deploy.local import postgres
from deploy.local.ephemeral import wait_until
from deploy.local.parts import ROOT
from deploy.local.ports import HOST, free_offset, shifted
from tests.support.servers import Servers

_BIN = postgres._BIN
# What a container does, done where its volume is.
_DOCKER = r"""
import os, shutil, subprocess, sys
volumes, log = os.environ["VOLUMES"], os.environ["SAID"]
words = sys.argv[1:]
with open(log, "a") as file:
    print("docker", *words[:9], file=file)
def folder(name):
    path = os.path.join(volumes, os.environ["COMPOSE_PROJECT_NAME"] + "_" + name)
    os.makedirs(path, exist_ok=True)
    return path
mounted = {"postgres": ("/var/lib/postgresql", "postgres"), "nats": ("/data", "nats"),
    "orders": ("/data", "assets"), "seed-orders": ("/data", "assets")}
match words:
    case ["compose", "exec", "-T", "--user", "postgres", "postgres", "pg_basebackup", *options]:
        sys.exit(subprocess.run([os.environ["BASEBACKUP"], "-d", os.environ["CLUSTER"], *options]).returncode)
    case ["compose", "run", "--rm", "--no-deps", "-T", "--entrypoint", command, service, *arguments]:
        place, volume = mounted[service]
        sys.exit(subprocess.run([command, *(a.replace(place, folder(volume)) for a in arguments)]).returncode)
    case ["volume", "rm", *names]:
        for name in names:
            shutil.rmtree(os.path.join(volumes, name))
    case ["compose", "stop" | "rm" | "up", *_] | ["compose", "run", "--rm", "audit"]:
        pass
    case _:
        sys.exit(f"a command that the document does not have: {words}")
"""


def block(heading: str) -> str:
    """The first block of commands under a heading of the document."""
    text = (ROOT / "docs/backup.md").read_text().partition(f"\n## {heading}")[2]
    return text.split("```")[1]


class Shell:
    """Runs the document's commands in a folder of its own."""

    def __init__(self, folder: Path, servers: Servers) -> None:
        self.volumes, self.said, programs = folder / "volumes", folder / "said", folder / "bin"
        for each in (self.volumes, programs):
            each.mkdir()
        (programs / "docker.py").write_text(_DOCKER)
        (programs / "docker").write_text(f'#!/bin/sh\nexec {sys.executable} {programs}/docker.py "$@"\n')
        # To us for Postgres' user, whom this machine may not have; and what asks a shop, which is not here.
        (programs / "chown").write_text(
            f'#!/bin/sh\nexec {shutil.which("chown")} -R "$(id -u):$(id -g)" "$3"\n'
        )
        (programs / "aishop").write_text('#!/bin/sh\necho aishop "$@" >> "$SAID"\n')
        for each in programs.iterdir():
            each.chmod(0o755)
        shutil.copytree(ROOT / "deploy/compose", folder / "deploy/compose")
        self._folder = folder
        self._environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "VOLUMES": str(self.volumes),
            "SAID": str(self.said),
            "COMPOSE_PROJECT_NAME": "aishop",
            "BASEBACKUP": str(_BIN / "pg_basebackup"),
            "CLUSTER": servers.admin_url(),
        }

    def run(self, commands: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["sh", "-ec", commands],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def volume(self, name: str) -> Path:
        return self.volumes / f"aishop_{name}"


@pytest.fixture
def shell(tmp_path: Path, servers: Servers) -> Shell:
    """The shop of before: pictures, and a cluster and a broker that the restore will replace."""
    hba = servers.stack.data / "postgres" / "pg_hba.conf"
    if "replication" not in hba.read_text():
        hba.write_text(f"{hba.read_text()}host replication postgres 127.0.0.1/32 scram-sha-256\n")
        with psycopg.connect(servers.admin_url(), autocommit=True) as connection:
            connection.execute("SELECT pg_reload_conf()")
    shell = Shell(tmp_path, servers)
    for name, file in (("assets", "a.png"), ("postgres", "18/docker/PG_VERSION"), ("nats", "jetstream/x")):
        path = shell.volume(name) / file
        path.parent.mkdir(parents=True)
        path.write_text("of before")
    return shell


@pytest.fixture
def marked(servers: Servers) -> Iterator[str]:
    """Something that only a backup of this moment has."""
    with psycopg.connect(servers.admin_url("wallet"), autocommit=True) as connection:
        connection.execute("CREATE TABLE of_the_backup AS SELECT 'kept' AS what")
        yield "SELECT what FROM of_the_backup"
        connection.execute("DROP TABLE of_the_backup")


def test_the_drill_of_the_document_brings_the_databases_back(
    shell: Shell, servers: Servers, marked: str
) -> None:
    taken = shell.run(block("Take one"))
    assert taken.returncode == 0, taken.stderr
    restored = shell.run(block("Restore one"))
    assert restored.returncode == 0, restored.stderr
    cluster = shell.volume("postgres") / "18/docker"
    assert list(shell.volume("nats").iterdir()) == []
    assert (shell.volume("assets") / "a.png").read_text() == "of before"
    said = re.sub(r"(?m)^docker (compose run --rm --no-deps|compose exec).*\n", "", shell.said.read_text())
    assert said.splitlines()[3:] == [
        "docker compose up --detach",
        "aishop reconcile --since TIME",
        "docker compose run --rm audit",
        "aishop quarantine list",
    ]
    with free_offset() as offset:
        port = shifted(offset)["postgres"]
        with subprocess.Popen(postgres.command(cluster, port), stderr=subprocess.DEVNULL) as process:
            try:
                address = re.sub(r"@[^/]*/", f"@{HOST}:{port}/", servers.admin_url("wallet"))
                wait_until(lambda: _answers(address, marked) == [("kept",)], seconds=30, what="restored")
            finally:
                process.terminate()


def _answers(address: str, query: str) -> list[tuple[str]] | None:
    try:
        with psycopg.connect(address, connect_timeout=2) as connection:
            return connection.execute(query.encode()).fetchall()
    except psycopg.OperationalError:
        return None


def test_a_volume_that_is_not_empty_is_never_restored_into(shell: Shell) -> None:
    assert shell.run(block("Take one")).returncode == 0
    for volume, kept in (("nats", "jetstream/x"), ("postgres", "18/docker/PG_VERSION")):
        refused = shell.run("sh deploy/compose/restore.sh backups/today")
        assert refused.returncode == 1
        assert f"the volume of {volume} is not empty" in refused.stderr
        assert (shell.volume("postgres") / "18/docker/PG_VERSION").read_text() == "of before"
        assert (shell.volume(volume) / kept).read_text() == "of before"
        shutil.rmtree(shell.volume(volume))


def test_what_holds_nothing_is_no_backup(shell: Shell, tmp_path: Path) -> None:
    shutil.rmtree(shell.volume("assets"))
    refused = shell.run(block("Take one"))
    assert (refused.returncode, "holds no picture" in refused.stderr) == (1, True), refused.stderr
    assert not list((tmp_path / "backups/today").glob("*.tar"))
    cut = "mkdir -p cut && head -c 99999 /dev/zero > cut/shop.tar && cp cut/shop.tar cut/assets.tar && "
    refused = shell.run(f"{cut} sh deploy/compose/restore.sh cut")
    assert refused.returncode == 1
    assert "cut/shop.tar" in refused.stderr
