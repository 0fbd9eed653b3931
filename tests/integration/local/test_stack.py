"""The local stack as its operator meets it: up, again, down, crashes, busy ports, orphans, secrets."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import jwt
import psycopg
import pytest
import valkey

from deploy.local import ports
from deploy.local.ephemeral import RunningStack, is_gone, running_stack, wait_until
from deploy.local.parts import ROOT
from deploy.local.stackfile import StackFile
from deploy.postgres.roles import LOGINS, SERVICES, role
from tests.support.servers import Servers

_SECONDS = 40.0


def aishop(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "deploy.local.cli", *arguments],
        cwd=ROOT,
        env=os.environ | environment | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "data"
    yield folder
    aishop("down", "--data", str(folder))


@pytest.fixture
def offset() -> Iterator[str]:
    with ports.free_offset() as free:
        yield str(free)


# --- roles ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("login", LOGINS)
def test_a_login_enters_its_own_database_only(servers: Servers, service: str, login: str) -> None:
    own = servers.url(service, login)
    psycopg.connect(own).close()
    for other in {*SERVICES, "postgres", "template1"} - {service}:
        refusal = "permission denied" if other in SERVICES else "pg_hba.conf rejects"
        with pytest.raises(psycopg.OperationalError, match=refusal):
            psycopg.connect(own, dbname=other)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(own, password="wrong")


def test_whoever_is_none_of_ours_enters_the_common_databases(servers: Servers) -> None:
    """As pg_rewind's user and CloudNativePG's streaming_replica must, or an old primary never comes back."""
    with psycopg.connect(servers.admin_url(), autocommit=True) as connection:
        connection.execute("CREATE ROLE rewinds LOGIN REPLICATION PASSWORD 'secret'")
        try:
            for database in ("postgres", "template1"):
                psycopg.connect(servers.admin_url(database), user="rewinds", password="secret").close()
        finally:
            connection.execute("DROP ROLE rewinds")


def test_no_login_owns_more_than_its_service(servers: Servers) -> None:
    with psycopg.connect(servers.admin_url()) as connection:
        roles = connection.execute(
            "SELECT rolname, rolsuper OR rolcreatedb OR rolcreaterole OR rolbypassrls FROM pg_roles"
            " WHERE rolname = ANY(%s)",
            ([role(service, login) for service in SERVICES for login in LOGINS],),
        ).fetchall()
    assert len(roles) == 9
    assert not any(mighty for _, mighty in roles)


# --- the cache --------------------------------------------------------------------------------------


def test_valkey_asks_for_its_password_is_bounded_and_writes_nothing_down(servers: Servers) -> None:
    address = servers.valkey_url.rpartition("@")[2]
    with valkey.Valkey.from_url(f"valkey://{address}") as stranger, pytest.raises(valkey.AuthenticationError):
        stranger.ping()
    with valkey.Valkey.from_url(servers.valkey_url) as ours:
        settings = {
            "maxmemory": "67108864",
            "maxmemory-policy": "allkeys-lru",
            "save": "",
            "appendonly": "no",
        }
        assert {name: ours.config_get(name)[name] for name in settings} == settings
        assert ours.config_get("bind") == {"bind": ports.HOST}
    assert stat.S_IMODE((servers.stack.data / "valkey.conf").stat().st_mode) == 0o600


# --- up and down ------------------------------------------------------------------------------------


def test_a_detached_stack_is_ready_private_and_leaves_nothing(data: Path, offset: str) -> None:
    up = ("up", "--data", str(data), "--port-offset", offset)
    first = aishop(*up, "--detach")
    # Reading its output came to an end: nobody inherited the pipe.
    assert (first.returncode, first.stderr) == (0, "")
    file = StackFile.read(data)
    assert httpx.get(f"{file.gateway_url}/readyz").status_code == 200
    assert stat.S_IMODE((data / "stack.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((data / "secrets.json").stat().st_mode) == 0o600
    assert len(file.auth_jwt_secret.encode()) >= 32
    assert set(json.loads((data / "stack.json").read_text())) == set(StackFile.model_fields)
    pids = [pid for pid in file.pids.values() if pid]
    assert len(pids) == 10
    assert os.getsid(file.pids["supervisor"] or 0) != os.getsid(0)

    again = aishop(*up)
    assert again.returncode == 0
    assert "already running" in again.stdout
    assert file.gateway_url in again.stdout
    assert str(file.pids["supervisor"]) in again.stdout

    assert "gateway" in aishop("status", "--data", str(data)).stdout
    _try_token(data, file)

    kept = uuid4()
    with psycopg.connect(file.database_urls["wallet"]) as connection:
        connection.execute("INSERT INTO profiles (id) VALUES (%s)", (kept,))
    assert aishop("down", "--data", str(data)).returncode == 0
    assert all(is_gone(pid) for pid in pids)
    assert not (data / "stack.json").exists()

    assert aishop(*up, "--detach").returncode == 0
    with psycopg.connect(StackFile.read(data).database_urls["wallet"]) as connection:
        assert connection.execute("SELECT 1 FROM profiles WHERE id = %s", (kept,)).fetchone() == (1,)
    with psycopg.connect(StackFile.read(data).database_urls["orders"]) as connection:
        # Seeded once, though started twice.
        query = "SELECT count(*) = count(DISTINCT title) FROM products"
        assert connection.execute(query).fetchone() == (True,)


def _try_token(data: Path, file: StackFile) -> None:
    user = str(uuid4())
    printed = aishop("token", "--data", str(data), "--user", user, "--email", "a@example.com", "--operator")
    token = printed.stdout.strip()
    claims = jwt.decode(token, file.auth_jwt_secret, algorithms=["HS256"], audience="authenticated")
    assert (claims["sub"], claims["email"], claims["app_metadata"]) == (
        *(user, "a@example.com"),
        {"role": "operator"},
    )
    profile = httpx.get(f"{file.gateway_url}/api/profile", headers={"Authorization": f"Bearer {token}"})
    assert profile.json()["id"] == user


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_cleanly(data: Path, offset: str, number: signal.Signals) -> None:
    command = ["up", "--data", str(data), "--port-offset", offset, "--servers-only"]
    process = subprocess.Popen([sys.executable, "-m", "deploy.local.cli", *command], cwd=ROOT)
    wait_until((data / "stack.json").exists, seconds=_SECONDS, what="ready")
    pids = [pid for pid in StackFile.read(data).pids.values() if pid]
    process.send_signal(number)
    assert process.wait(_SECONDS) == 0
    assert all(is_gone(pid) for pid in pids)


def test_a_busy_port_names_its_holder_and_the_way_out(data: Path, offset: str) -> None:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((ports.HOST, ports.shifted(int(offset))["orders"]))
        holder.listen()
        refused = aishop("up", "--data", str(data), "--port-offset", offset)
    assert refused.returncode == 1
    assert f"pid {os.getpid()} (" in refused.stderr
    assert "--port-offset" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_what_a_killed_supervisor_left_is_ended(data: Path, offset: str) -> None:
    up = ("up", "--data", str(data), "--port-offset", offset, "--servers-only", "--detach")
    assert aishop(*up).returncode == 0
    file = StackFile.read(data)
    orphans = [file.pids["postgres"] or 0, file.pids["nats"] or 0, file.pids["valkey"] or 0]
    os.kill(file.pids["supervisor"] or 0, signal.SIGKILL)
    wait_until(lambda: is_gone(file.pids["supervisor"] or 0), seconds=_SECONDS, what="killed")
    assert not any(is_gone(pid) for pid in orphans)
    assert aishop(*up).returncode == 0
    assert all(is_gone(pid) for pid in orphans)
    assert StackFile.read(data).pids["postgres"] not in orphans


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("up", "--port-offset", "1701"), "1700"),
        (("status", "--data", "/nowhere"), "aishop up"),
        (("audit", "--stack", "/nowhere/stack.json"), "aishop up"),
        (("token", "--user", "me"), "UUID"),
    ],
)
def test_a_mistake_is_one_clear_message(arguments: tuple[str, ...], says: str) -> None:
    answer = aishop(*arguments)
    assert answer.returncode != 0
    assert says in answer.stderr
    assert "Traceback" not in answer.stderr


def test_every_command_explains_itself() -> None:
    listed = aishop("--help").stdout
    for command in ("up", "down", "status", "token", "demo", "audit", "bench"):
        assert command in listed
        assert aishop(command, "--help").returncode == 0


def test_with_stripes_key_the_sandbox_stays_away_and_the_key_is_told_to_nobody(
    data: Path, offset: str
) -> None:
    key = "sk_test_of_somebody"
    up = ("up", "--data", str(data), "--port-offset", offset, "--detach")
    started = aishop(*up, STRIPE_SECRET_KEY=key, STRIPE_WEBHOOK_SECRET=f"whsec_{'of_somebody' * 3}")
    assert started.returncode == 0, started.stderr
    file = StackFile.read(data)
    assert (file.stripe_url, file.pids["stripe"]) == ("https://api.stripe.com", None)
    payments = file.pids["payments"] or 0
    environment = (Path("/proc") / str(payments) / "environ").read_text()
    assert f"STRIPE_SECRET_KEY={key}" in environment
    assert "STRIPE_API_BASE" not in environment
    told = started.stdout + started.stderr
    told += "".join(log.read_text() for log in (data / "logs").iterdir())
    assert key not in told


# --- crashes ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def servers_to_harm() -> Iterator[RunningStack]:
    with running_stack(servers_only=True) as running:
        yield running


@pytest.mark.parametrize("part", ["postgres", "nats", "valkey"])
def test_a_part_that_dies_is_named_and_comes_back_with_its_data(
    servers_to_harm: RunningStack, part: str
) -> None:
    stack = servers_to_harm
    with psycopg.connect(stack.file.database_urls["orders"]) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (id int)")
    dead = stack.file.pids[part]
    assert dead is not None
    stack.kill(part)
    stack.wait_restarted(part, dead)
    assert f"{part} died (SIGKILL)" in (stack.data / "logs" / "supervisor.log").read_text()
    with psycopg.connect(stack.file.database_urls["orders"]) as connection:
        assert connection.execute("SELECT to_regclass('kept') IS NOT NULL").fetchone() == (True,)


def test_all_ports_are_below_the_ephemeral_range() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(ports.shifted(ports.MAX_OFFSET).values()) < lowest
