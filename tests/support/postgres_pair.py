"""A primary and a standby that has every acknowledged commit."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg

from deploy.local import ports, postgres
from deploy.local.ephemeral import is_gone, wait_until
from deploy.local.parts import base_environment
from deploy.postgres.bootstrap import bootstrap
from deploy.postgres.roles import LOGINS, SERVICES, role

_PASSWORD = "secret"
_SECONDS = 30.0
_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


class PostgresPair:
    """Every role has the same password. URLs name both servers, and lead to the one that takes writes."""

    def __init__(self, folder: Path, free: tuple[int, int]) -> None:
        self._folder = folder
        self._ports = {"primary": free[0], "standby": free[1]}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def url(self, database: str, login: str = "postgres") -> str:
        hosts = ",".join(f"{ports.HOST}:{port}" for port in self._ports.values())
        return f"postgresql://{login}:{_PASSWORD}@{hosts}/{database}?target_session_attrs=read-write"

    def _url_of(self, name: str) -> str:
        return f"postgresql://postgres:{_PASSWORD}@{ports.HOST}:{self._ports[name]}/postgres"

    def begin(self) -> None:
        """Starts both; from now on a commit is acknowledged when it is on both disks."""
        postgres.initialise(self._folder / "primary", _PASSWORD)
        with (self._folder / "primary" / "pg_hba.conf").open("a") as hba:
            hba.write(f"host replication postgres {ports.HOST}/32 scram-sha-256\n")
        self._start("primary")
        bootstrap(
            self._url_of("primary"),
            {role(service, login): _PASSWORD for service in SERVICES for login in LOGINS},
        )
        self._copy()
        self._start("standby", {"cluster_name": "standby"})
        with psycopg.connect(self._url_of("primary"), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (standby)'")
            connection.execute("SELECT pg_reload_conf()")
        wait_until(self._is_synchronous, seconds=_SECONDS, what="a synchronous standby")

    def _copy(self) -> None:
        command = [str(postgres.binary("pg_basebackup")), "--dbname", self._url_of("primary")]
        options = ["--pgdata", str(self._folder / "standby"), "--write-recovery-conf", "--checkpoint=fast"]
        subprocess.run([*command, *options], check=True, capture_output=True)

    def _start(self, name: str, settings: Mapping[str, str] | None = None) -> None:
        options = [part for pair in (settings or {}).items() for part in ("-c", "=".join(pair))]
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*postgres.command(self._folder / name, self._ports[name]), *options],
                env=base_environment(),
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: self._answers(name), seconds=_SECONDS, what=name)

    def _answers(self, name: str) -> bool:
        try:
            psycopg.connect(self._url_of(name), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _is_synchronous(self) -> bool:
        return self._ask("primary", "SELECT sync_state FROM pg_stat_replication") == ["quorum"]

    def _ask(self, name: str, query: str) -> list[object]:
        with psycopg.connect(self._url_of(name), autocommit=True) as connection:
            return [value for (value,) in connection.execute(query.encode())]

    def cut_replication(self) -> None:
        """The standby takes nothing more from the primary, which does not know."""
        os.kill(self._receiver(), signal.SIGSTOP)

    def _receiver(self) -> int:
        [pid] = self._ask("standby", "SELECT pid FROM pg_stat_wal_receiver")
        return int(str(pid))

    def waiting(self) -> int:
        """How many commits wait for the standby."""
        [number] = self._ask("primary", _WAITING)
        return int(str(number))

    def promote(self) -> None:
        """The primary dies, and the standby takes its place with what it had when replication was cut."""
        receiver = self._receiver()
        self._processes["primary"].kill()
        self._processes["primary"].wait()
        # Ends it before it reads what the primary has sent meanwhile.
        os.kill(receiver, signal.SIGTERM)
        os.kill(receiver, signal.SIGCONT)
        wait_until(lambda: is_gone(receiver), seconds=_SECONDS, what="the end of the WAL receiver")
        assert self._ask("standby", "SELECT pg_promote()") == [True]

    def stop(self) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGINT)
        for process in self._processes.values():
            process.wait(_SECONDS)


@contextmanager
def postgres_pair(folder: Path) -> Iterator[PostgresPair]:
    with ports.free_offset() as offset:
        first, second, *_ = ports.shifted(offset).values()
        pair = PostgresPair(folder, (first, second))
        try:
            pair.begin()
            yield pair
        finally:
            pair.stop()
