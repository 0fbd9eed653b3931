"""Whom a request is counted under, and who is believed about it."""

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.client_address import address_of, source_of

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


def scope(peer: str | None, *forwarded_for: bytes) -> dict[str, Any]:
    headers = [(b"x-forwarded-for", value) for value in forwarded_for]
    return {"client": (peer, 1234) if peer else None, "headers": [(b"host", b"shop"), *headers]}


def test_by_default_nobody_is_believed() -> None:
    assert address_of(scope("203.0.113.7", b"198.51.100.1"), ()) == "203.0.113.7"
    assert address_of(scope(None), PROXIES) == "unknown"


def test_a_stranger_is_not_believed_about_others() -> None:
    assert address_of(scope("203.0.113.7", b"198.51.100.1"), PROXIES) == "203.0.113.7"
    lying = {
        "client": ("10.0.0.1", 1),
        "headers": [(b"forwarded", b"for=1.2.3.4"), (b"x-real-ip", b"1.2.3.4")],
    }
    assert address_of(lying, PROXIES) == "10.0.0.1"


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        ([b"198.51.100.1"], "198.51.100.1"),
        # What the client claims stands before what the proxy saw.
        ([b"1.1.1.1, 198.51.100.1"], "198.51.100.1"),
        ([b"1.1.1.1, 198.51.100.1 ,10.2.3.4,10.9.9.9"], "198.51.100.1"),
        ([b"1.1.1.1", b"198.51.100.1", b"10.2.3.4"], "198.51.100.1"),
        ([b"2001:db8::7, fd00::1"], "2001:db8::7"),
        ([b"::ffff:198.51.100.1, ::ffff:10.0.0.2"], "198.51.100.1"),
        # Some proxies tell the port, too.
        ([b"203.0.113.7:51234"], "203.0.113.7"),
        ([b"[2001:db8::1]:443"], "2001:db8::1"),
        ([b"[2001:db8::1]"], "2001:db8::1"),
        ([b"1.1.1.1:1, 198.51.100.1:80, 10.2.3.4:9999"], "198.51.100.1"),
        ([b"203.0.113.7:"], "10.0.0.1"),
        ([b"203.0.113.7:123456"], "10.0.0.1"),
        ([b"2001:db8::7:443"], "2001:db8::7:443"),
        # Nothing to be had: then the proxy itself is counted.
        ([], "10.0.0.1"),
        ([b""], "10.0.0.1"),
        ([b"10.0.0.5"], "10.0.0.1"),
        ([b"198.51.100.1, somebody"], "10.0.0.1"),
        ([b"198.51.100.1, \xff\xfe"], "10.0.0.1"),
        ([b"198.51.100.1," + b"10.0.0.9," * 500 + b"10.0.0.9"], "10.0.0.1"),
    ],
)
def test_proxies_of_ours_are_believed_as_far_as_they_saw(lines: list[bytes], client: str) -> None:
    assert address_of(scope("10.0.0.1", *lines), PROXIES) == client


@given(st.binary(max_size=200))
def test_no_header_breaks_it(noise: bytes) -> None:
    assert address_of(scope("10.0.0.1", noise), PROXIES)


def test_a_customer_of_ipv6_is_counted_once() -> None:
    assert source_of("2001:db8:1:2::1") == source_of("2001:db8:1:2:ffff::9") != source_of("2001:db8:1:3::1")
    assert source_of("::ffff:198.51.100.1") == source_of("198.51.100.1") != source_of("198.51.100.2")
    assert source_of("unknown") == "unknown"
