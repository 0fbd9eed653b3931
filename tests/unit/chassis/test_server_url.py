"""Who signs in where, out of one URL."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.server_url import server_url


@given(user=st.text(max_size=20), password=st.text(max_size=40))
def test_whatever_is_percent_encoded_comes_back(user: str, password: str) -> None:
    url = server_url(f"smtp://{quote(user, safe='')}:{quote(password, safe='')}@mail.example:587")
    assert (url.user, url.password) == (user, password)
    assert [str(host) for host in url.hosts] == ["mail.example:587"]


def test_a_sign_in_with_an_address_and_a_difficult_password() -> None:
    url = server_url("smtp://no-reply%40shop.example:p%2Bss%2Fw%40rd@mail.example")
    assert (url.user, url.password) == ("no-reply@shop.example", "p+ss/w@rd")
    assert "p+ss" not in repr(url)


def test_hosts_of_a_cluster_and_of_ipv6() -> None:
    url = server_url("nats://a:b@one:4222,[2001:db8::1]:4223,[::1]/x?y=z")
    assert [(host.name, host.port) for host in url.hosts] == [
        ("one", 4222),
        ("2001:db8::1", 4223),
        ("::1", None),
    ]
    assert [str(host) for host in url.hosts] == ["one:4222", "[2001:db8::1]:4223", "[::1]"]
    assert url.path == "/x"


def test_without_a_sign_in_there_is_none() -> None:
    url = server_url("valkey://:secret@h:1/0")
    assert (url.user, url.password) == ("", "secret")
    assert server_url("valkey://h").user is None


@pytest.mark.parametrize(
    "text",
    [
        *("smtp://u:hush@ss@h", "smtp://u:hush/ss@h", "smtp://u:hush#ss@h", "smtp://u:hush?ss@h"),
        *("smtp://u:hush%@h", "smtp://u:hush%ff@h", "smtp://u:hush%zz@h", "smtp://u:hush s@h"),
        *("smtp://", "hush:1", "smtp://hush:70000", "smtp://hush@"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused_without_a_word_of_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"^((?!hush).)*$"):
        server_url(text)
