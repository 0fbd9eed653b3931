"""How a process starts with settings that are missing or wrong: a line for each, and no secret in any."""

import os
import re
import runpy
import sys
from pathlib import Path

import pytest

from deploy.local.audit.settings import AuditSettings
from deploy.local.mailbox.settings import MailboxSettings
from deploy.local.stripe_sandbox.settings import SandboxSettings
from deploy.postgres.settings import BootstrapSettings
from gateway.settings import GatewaySettings
from services.chassis.server_url import ENCODE
from services.chassis.settings import MigrationSettings, ProcessSettings, RekeySettings, SeedSettings, load
from services.orders.settings import OrdersSeedSettings, OrdersSettings
from services.payments.settings import Settings as PaymentsSettings
from services.wallet.settings import WalletSettings

# By how the process is started.
PROCESSES: dict[str, type[ProcessSettings]] = {
    "gateway": GatewaySettings,
    "services.wallet": WalletSettings,
    "services.wallet migrate": MigrationSettings,
    "services.wallet rekey": RekeySettings,
    "services.orders": OrdersSettings,
    "services.orders migrate": MigrationSettings,
    "services.orders rekey": RekeySettings,
    "services.orders seed": OrdersSeedSettings,
    "services.payments": PaymentsSettings,
    "services.payments migrate": MigrationSettings,
    "services.payments rekey": RekeySettings,
    "services.payments seed": SeedSettings,
    "deploy.postgres": BootstrapSettings,
    "deploy.local.audit": AuditSettings,
    "deploy.local.mailbox": MailboxSettings,
    "deploy.local.stripe_sandbox": SandboxSettings,
}
KINDS = list(dict.fromkeys(PROCESSES.values()))
SECRET = re.compile(r".*(secret|password).*|.*_keys?|(.*database|nats|valkey|smtp).*_url")
GARBAGE = "postgres//hunter2:hunter2@hunter2:hunter2/hunter2?hunter2,\thunter2"
KEY = "A" * 43


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in PROCESSES.values():
        for name in kind.model_fields:
            monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("command", [*PROCESSES, "services.wallet republish", "services.payments republish"])
@pytest.mark.parametrize("word", ["now", "--help", "serve"])
def test_a_process_that_is_told_what_it_does_not_know_starts_nothing_and_ends_with_2(
    command: str, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, *arguments = command.split()
    monkeypatch.setattr(sys, "argv", [module, *arguments, word])
    monkeypatch.delitem(sys.modules, f"{module}.__main__", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    said = capsys.readouterr()
    # Asked for, it is no error.
    assert ended.value.code == (0 if "republish" in command and word == "--help" else 2)
    assert (said.err or said.out).startswith("usage: python -m ")


def test_wallet_has_nothing_to_seed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["services.wallet", "seed"])
    monkeypatch.delitem(sys.modules, "services.wallet.__main__", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("services.wallet", run_name="__main__")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "usage: python -m services.wallet [migrate|rekey|republish]\n"


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The lines, by what they are about."""
    lines = capsys.readouterr().err.splitlines()
    return dict(line.split(": ", 1) for line in lines)


@pytest.mark.parametrize("command", PROCESSES)
def test_a_process_without_its_settings_names_each_and_ends_with_2(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, *arguments = command.split()
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    # Another test may have imported it: runpy warns that it then runs twice.
    monkeypatch.delitem(sys.modules, f"{module}.__main__", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    assert ended.value.code == 2
    fields = PROCESSES[command].model_fields
    missing = {name.upper() for name, field in fields.items() if field.is_required()}
    assert missing, "every process needs something"
    assert told(capsys) == dict.fromkeys(missing, "is required")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_wrong_value_is_never_repeated(
    kind: type[ProcessSettings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in kind.model_fields:
        monkeypatch.setenv(name.upper(), GARBAGE)
    with pytest.raises(SystemExit):
        load(kind)
    said = capsys.readouterr().err
    assert "LOG_LEVEL: " in said
    assert "hunter2" not in said
    # Also where somebody makes them without load().
    with pytest.raises(ValueError, match="log_level") as raised:
        kind()
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_holds_a_secret_does_not_show_it(kind: type[ProcessSettings]) -> None:
    for name, field in kind.model_fields.items():
        # The one names a file.
        if SECRET.fullmatch(name) and name != "grpc_tls_key":
            assert "SecretStr" in str(field.annotation), name


POSTGRES_FORM = "must be postgresql://[user:password@]host[:port]/name"
WALLET = {
    "DATABASE_APP_URL": "postgresql://wallet_app:p@127.0.0.1:5432/wallet",
    "DATABASE_WORKER_URL": "postgresql://wallet_worker:p@one:5432,two:5433/wallet?target_session_attrs=primary",
    "NATS_URL": "nats://wallet:p@nats-0:4222,nats-1:4222",
    "GRPC_LISTEN": "[::]:15051",
    "DATA_ENCRYPTION_KEYS": f"k2:{KEY},k1:{KEY}",
    "EMAIL_HMAC_KEY": KEY,
}


@pytest.fixture
def wallet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in WALLET.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("wallet")
def test_good_settings_are_good() -> None:
    assert load(WalletSettings).database_app_url.get_secret_value() == os.environ["DATABASE_APP_URL"]


@pytest.mark.usefixtures("wallet")
@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        *(
            ("DATABASE_APP_URL", url, POSTGRES_FORM + (f"; {ENCODE}" if "@" in url else ""))
            for url in (
                *("mysql://u:p@h/d", "postgresql://u:p@h", "postgresql://u:p@/d", "postgresql:///d", "h/d"),
                *("postgresql://u:p@h:abc/d", "postgresql://u:p@h:99999/d", "postgresql://u:p p@h/d"),
                *("postgresql://u:p@ss@h/d", "postgresql://u:p/ss@h/d", "postgresql://u:50%@h/d"),
            )
        ),
        ("NATS_URL", "nats://u:p#ss@h:4222", f"must be nats://[user:password@]host[:port]; {ENCODE}"),
        ("NATS_URL", "http://h:4222", "must be nats://[user:password@]host[:port]"),
        ("GRPC_LISTEN", "15051", "must be host:port"),
        ("GRPC_LISTEN", "0.0.0.0:", "must be host:port"),
        ("DATA_ENCRYPTION_KEYS", "k1:short", "must be kid:base64url(32 bytes)[,kid:...]"),
        ("DATA_ENCRYPTION_KEYS", KEY, "must be kid:base64url(32 bytes)[,kid:...]"),
        ("EMAIL_HMAC_KEY", "é", "must be base64url(32 bytes)"),
        ("DATABASE_POOL_SIZE", "0", "Input should be greater than or equal to 1"),
    ],
)
def test_a_wrong_setting_is_named_with_what_it_must_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, line: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        load(WalletSettings)
    assert told(capsys) == {name: line}


@pytest.mark.usefixtures("wallet")
def test_what_contradicts_itself_is_said_in_a_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("GRPC_TLS_CERT", str(tmp_path / "tls.crt"))
    with pytest.raises(SystemExit):
        load(WalletSettings)
    said = capsys.readouterr().err
    assert said == "GRPC_TLS_CERT, GRPC_TLS_KEY and GRPC_TLS_CA go together: set all or none\n"


PAYMENTS = {name: value for name, value in WALLET.items() if name != "EMAIL_HMAC_KEY"} | {
    "STRIPE_SECRET_KEY": f"sk_test_{'k' * 24}",
    "STRIPE_WEBHOOK_SECRETS": f"whsec_{'n' * 32},whsec_{'o' * 64}",
    "WEBHOOK_LISTEN": "0.0.0.0:8081",
    "SHOP_URL": "https://shop.example",
}


@pytest.mark.parametrize(
    ("given", "mark"),
    [({}, "shop.example"), ({"SHOP_ID": ""}, "shop.example"), ({"SHOP_ID": "shop-1"}, "shop-1")],
)
def test_what_a_shop_makes_at_stripe_bears_its_mark(
    payments: None, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], mark: str
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert load(PaymentsSettings).shop_mark == mark


LIVE_KEY = f"rk_live_{'k' * 24}"


@pytest.fixture
def payments(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PAYMENTS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("payments")
@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        *(("STRIPE_WEBHOOK_SECRETS", value, "from the endpoint") for value in ("x", "whsec_short", ",")),
        # Neither while one is rolled.
        ("STRIPE_WEBHOOK_SECRETS", f"whsec_{'n' * 32},x", "from the endpoint"),
        *(
            ("STRIPE_SECRET_KEY", value, "must be a secret key")
            for value in ("pk_live_5", "pk_test_5", "whsec_5", "sk_test_", "sk_5", "ek_live_5")
        ),
        *(
            ("TRUSTED_PROXIES", value, "must be your own proxies")
            for value in ("0.0.0.0/0", "::/0", "10.0.0.1,0.0.0.0/1", "::/1")
        ),
        *(("SHOP_URL", value, "must be http") for value in ("shop.example", "ftp://h", "https://u:p@h")),
        ("STRIPE_API_BASE", "api.stripe.com", "must be http"),
    ],
)
def test_a_dangerous_setting_is_refused_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        load(PaymentsSettings)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{name}: ")
    assert says in line


@pytest.mark.usefixtures("payments")
@pytest.mark.parametrize(
    ("key", "base", "is_good"),
    [
        (LIVE_KEY, "http://stripe.example", False),
        (LIVE_KEY, "http://127.0.0.1.stripe.example", False),
        (LIVE_KEY, "https://stripe.example", True),
        (LIVE_KEY, "http://127.0.0.1:8082", True),
        (LIVE_KEY, "http://[::1]:8082", True),
        (PAYMENTS["STRIPE_SECRET_KEY"], "http://stripe:8082", True),
    ],
)
def test_a_live_key_is_sent_in_the_clear_to_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str, base: str, is_good: bool
) -> None:
    monkeypatch.setenv("STRIPE_SECRET_KEY", key)
    monkeypatch.setenv("STRIPE_API_BASE", base)
    if is_good:
        assert load(PaymentsSettings).livemode is (key == LIVE_KEY)
    else:
        with pytest.raises(SystemExit):
            load(PaymentsSettings)
        assert capsys.readouterr().err.startswith("STRIPE_API_BASE: a live key goes to Stripe by https only")
