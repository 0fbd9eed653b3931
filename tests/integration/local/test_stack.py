"""The local stack as its operator meets it: up, again, down, crashes, busy ports, orphans, secrets."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import httpx
import jwt
import psycopg
import pytest
import valkey
from typer.testing import CliRunner

from deploy.local import cli, ports, tokens
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
    """Longer than the path of a socket may be."""
    folder = tmp_path / ("a folder of 122 characters and more, " + "x" * 90)
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
    # What a version before left readable is not for long.
    (data / "logs").mkdir(parents=True)
    (data / "logs" / "old.log").touch(mode=0o644)
    frontend = "http://localhost:3000"
    up = ("up", "--data", str(data), "--port-offset", offset, "--frontend", f"{frontend}/")
    first = aishop(*up, "--detach")
    # Reading its output came to an end: nobody inherited the pipe.
    assert (first.returncode, first.stderr) == (0, "")
    file = StackFile.read(data)
    assert httpx.get(f"{file.gateway_url}/readyz").status_code == 200
    _is_private(data)
    _serves(file, frontend)
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
    _ends_with_its_supervisor(data)


def _is_private(data: Path) -> None:
    told_to_nobody = [data / name for name in ("logs", "mailbox", "stripe")]
    files = [data / "stack.json", data / "secrets.json", *(f for d in told_to_nobody for f in d.iterdir())]
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in told_to_nobody} == {0o700}
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in files} == {
        path.name: 0o600 for path in files
    }
    assert any("mailbox.sqlite3" in path.name for path in files)


def _serves(file: StackFile, frontend: str) -> None:
    """A browser on the frontend may ask, and pages that Stripe leads to are its own."""
    asked = {"Origin": frontend, "Access-Control-Request-Method": "POST"}
    allowed = httpx.options(f"{file.gateway_url}/api/checkout", headers=asked)
    assert allowed.headers["access-control-allow-origin"] == frontend
    token = tokens.mint(
        secret=file.auth_jwt_secret, user_id=uuid4(), email=None, operator=False, ttl_seconds=60
    )
    package = httpx.get(f"{file.gateway_url}/api/points/packages").json()["items"][0]
    checkout = httpx.post(
        f"{file.gateway_url}/api/checkout/points",
        headers={"Authorization": f"Bearer {token}"},
        json={"packageId": package["id"], "points": package["points"], "price": package["priceCents"]},
    )
    with psycopg.connect(file.database_urls["payments"]) as connection:
        query = "SELECT 1 FROM checkouts WHERE id = %s"
        assert connection.execute(query, (checkout.json()["checkoutId"],)).fetchone()
    paid = httpx.post(checkout.json()["url"], data={"action": "pay"})
    assert paid.headers["location"].startswith(f"{frontend}/checkout/success")


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
def test_a_signal_stops_everything_cleanly(
    data: Path, offset: str, number: signal.Signals, empty_databases: Path
) -> None:
    shutil.copytree(empty_databases, data)
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


def test_a_shop_ends_with_whoever_started_it_for_himself(empty_databases: Path) -> None:
    """The demo, the bench and the tests, when they are killed: processes and folder are gone."""
    script = (
        "import time\n"
        "from pathlib import Path\n"
        "from deploy.local.ephemeral import running_stack\n"
        f"with running_stack(servers_only=True, prepared=Path({str(empty_databases)!r})) as stack:\n"
        "    print(stack.data, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        data = Path(parent.stdout.readline().decode().strip())
        pids = [pid for pid in StackFile.read(data).pids.values() if pid]
        assert len(pids) == 4
        parent.kill()
    wait_until(lambda: all(map(is_gone, pids)), seconds=_SECONDS, what="the stack's end")
    wait_until(lambda: not data.exists(), seconds=_SECONDS, what="the folder's end")


def _ends_with_its_supervisor(data: Path) -> None:
    """Every process of the shop, those that Postgres has started too."""
    pids = StackFile.read(data).pids
    everyone = {*(pid for pid in pids.values() if pid), *_working_in(data / "postgres")}
    assert len(everyone) > len(pids)
    os.kill(pids["supervisor"] or 0, signal.SIGKILL)
    wait_until(lambda: all(map(is_gone, everyone)), seconds=_SECONDS, what="the shop's end")


def _working_in(folder: Path) -> set[int]:
    """Whose working directory that is."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cwd").samefile(folder):
                found.add(int(process.name))
    return found


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("up", "--port-offset", "1701"), "1700"),
        (("status", "--data", "/nowhere"), "aishop up"),
        (("audit", "--stack", "/nowhere/stack.json"), "aishop up"),
        (("token", "--user", "me"), "UUID"),
        (("up", "--frontend", "localhost:3000"), "is no origin such as http://localhost:3000"),
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
        assert CliRunner().invoke(cli.app, [command, "--help"]).exit_code == 0


def test_with_stripes_key_the_sandbox_stays_away_and_the_key_is_told_to_nobody(
    data: Path, offset: str, prepared_databases: Path
) -> None:
    shutil.copytree(prepared_databases, data)
    key = "sk_test_of_somebody"
    up = ("up", "--data", str(data), "--port-offset", offset, "--detach", "--prepared")
    # Stripe itself cannot be reached from here: whose key it is must be said.
    stripe = {"STRIPE_SECRET_KEY": key, "STRIPE_ACCOUNT_ID": "acct_of_somebody"}
    started = aishop(*up, **stripe, STRIPE_WEBHOOK_SECRET=f"whsec_{'of_somebody' * 3}")
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
def servers_to_harm(empty_databases: Path) -> Iterator[RunningStack]:
    with running_stack(servers_only=True, prepared=empty_databases) as running:
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
