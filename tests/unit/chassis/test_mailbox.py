"""One definition of an e-mail address."""

import pytest

from services.chassis.mailbox import mailbox_of


@pytest.mark.parametrize(
    ("address", "mailbox"),
    [
        ("k@example.com", "k@example.com"),
        (" k@example.com", "k@example.com"),
        ("k@example.com\r\n", "k@example.com"),
        ("jürgen@exämple.de", "jürgen@exämple.de"),
        ("a@b", "a@b"),
        ('"john doe"@example.com', ""),
        ("k@example.com, eve@example.com", ""),
        ("k@example.com\r\nBcc: eve@example.com", ""),
        ("k k@example.com", ""),
        ("k@@example.com", ""),
        (f"{'k' * 65}@example.com", ""),
        ("nobody", ""),
        ("", ""),
    ],
)
def test_a_mailbox_is_trimmed_and_what_is_none_is_left_out(address: str, mailbox: str) -> None:
    assert mailbox_of(address) == mailbox
    assert mailbox_of(mailbox) == mailbox
