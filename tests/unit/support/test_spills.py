"""The scan of logs finds what must not be in them."""

from pathlib import Path

import pytest

from deploy.local.secret_store import load_or_draw
from tests.support.spills import spilled, spills


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"event": "saga.waits", "order_id": "01920000-0000-7000-8000-000000000001"}', []),
        ('{"event": "mail.sent", "sender": "shop@aishop.local"}', []),
        ("connection to postgresql://127.0.0.1:5432/wallet refused", []),
        ("postgresql://wallet_app:***@127.0.0.1:5432/wallet", []),
        ("Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.e30.x", ["a token"]),
        ("evt_1YzgVTNeyJuAGpbSpmuJRGBCW is an id", []),
        ("ada.lovelace+shop@example.com", ["an e-mail address"]),
        ("api_key=sk_test_0123456789", ["a key of Stripe's"]),
        ("whsec_0123456789abcdef", ["a key of Stripe's"]),
        ("4242 4242 4242 4242", ["a card number"]),
        ("path=/api/downloads/AQf3Zm9vYmFyYmF6cXV4cXV1eA", ["the key of a download"]),
        ("route=/api/downloads/{token}", []),
        ("nats://aishop:pass@127.0.0.1:14222", ["a password in a URL"]),
        ("valkey://:pass@127.0.0.1:16379", ["a password in a URL"]),
    ],
)
def test_what_looks_like_a_secret_is_found(line: str, found: list[str]) -> None:
    assert list(spilled(line, {})) == found


def test_every_secret_of_the_stack_is_found_in_every_log(tmp_path: Path) -> None:
    secrets = load_or_draw(tmp_path)
    (tmp_path / "logs").mkdir()
    key = secrets.data_encryption_keys.partition(":")[2]
    told = [secrets.auth_jwt_secret, secrets.role_passwords["wallet_app"], key, "nothing"]
    (tmp_path / "logs" / "orders.log").write_text("\n".join(f"begin {each} end" for each in told))
    (tmp_path / "logs" / "gateway.log.1").write_bytes(b"\xff" + secrets.valkey_password.encode())
    assert spills(tmp_path) == [
        "gateway.log.1:1: valkey_password",
        "orders.log:1: auth_jwt_secret",
        "orders.log:2: wallet_app",
        "orders.log:3: data_encryption_keys",
    ]
