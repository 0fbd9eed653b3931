"""Tokens of download links: nobody makes one, changes one, or writes one in another way."""

from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from pydantic import SecretStr

from services.chassis.crypto import Keyring
from services.orders.links import MAX_TOKEN_LENGTH, Link, open_link, seal_link

OLD, NEW = "a" * 43, "c" * 43
KEYRING = Keyring(SecretStr(f"old:{OLD}"))
LINK = Link(uuid4(), 7, uuid4(), datetime(2026, 11, 24, 12, tzinfo=UTC))
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def test_a_token_opens_to_what_was_sealed_also_after_the_keys_were_rolled() -> None:
    token = seal_link(KEYRING, LINK)
    assert set(token) <= set(ALPHABET)
    assert open_link(KEYRING, token) == LINK
    assert open_link(Keyring(SecretStr(f"new:{NEW},old:{OLD}")), token) == LINK
    assert open_link(Keyring(SecretStr(f"new:{NEW}")), token) is None
    assert open_link(Keyring(SecretStr(f"old:{NEW}")), token) is None


def test_no_two_tokens_are_the_same_and_none_tells_what_is_in_it() -> None:
    tokens = {seal_link(KEYRING, LINK) for _ in range(10)}
    assert len(tokens) == 10
    assert not any(LINK.user_id.hex[:8] in token for token in tokens)


def test_the_end_is_cut_to_seconds() -> None:
    link = Link(LINK.grant_id, 1, LINK.user_id, LINK.ends_at + timedelta(milliseconds=900))
    opened = open_link(KEYRING, seal_link(KEYRING, link))
    assert opened is not None
    assert opened.ends_at == LINK.ends_at


def test_every_other_spelling_of_a_token_is_none() -> None:
    token = seal_link(KEYRING, LINK)
    for place, letter in enumerate(token):
        other = ALPHABET[(ALPHABET.index(letter) + 1) % len(ALPHABET)]
        assert open_link(KEYRING, token[:place] + other + token[place + 1 :]) is None, place
        assert open_link(KEYRING, token[:place]) is None, place
    for spelled in (
        token + "=",
        token + "==",
        token + "A",
        f" {token}",
        f"{token}\n",
        token[:9] + "!" + token[9:],
    ):
        assert open_link(KEYRING, spelled) is None


@pytest.mark.parametrize(
    "rubbish", ["", "A", "é" * 120, "\ud800", "AAAA", "A" * MAX_TOKEN_LENGTH, "A" * 100_000]
)
def test_rubbish_is_none(rubbish: str) -> None:
    assert open_link(KEYRING, rubbish) is None


def test_something_else_that_was_sealed_is_none() -> None:
    for place in ("orders.email:x", "downloads.token"):
        sealed = KEYRING.seal(b"short", place=place)
        assert open_link(KEYRING, urlsafe_b64encode(sealed).decode().rstrip("=")) is None
