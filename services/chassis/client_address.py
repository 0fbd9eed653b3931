"""From which address a request comes, for counting.

The peer of the connection, unless that is one of our own proxies: then whom the proxies name in
X-Forwarded-For. Anybody may send that header, hence it is read from its end, where our proxies wrote, up to
the first address that is not one of them. No other header is looked at.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated

from pydantic import BeforeValidator
from pydantic_settings import NoDecode
from starlette.types import Scope

Network = IPv4Network | IPv6Network
_Address = IPv4Address | IPv6Address
# What a customer is given of IPv6.
_IPV6_PREFIX = 64
_MAX_HOPS = 16
# The widest private networks: 10.0.0.0/8 and fc00::/7.
_SHORTEST_PREFIX = {4: 8, 6: 7}
_NOWHERE = "unknown"
_WITH_PORT = re.compile(r"(?:(?P<v4>[0-9.]+):[0-9]{1,5}|\[(?P<v6>[0-9a-fA-F:.]+)\](?::[0-9]{1,5})?)")


def _networks(value: object) -> object:
    """ValueError for what is neither an address nor a network."""
    if isinstance(value, str):
        try:
            networks = tuple(ip_network(each.strip()) for each in value.split(",") if each.strip())
        except ValueError as error:
            raise ValueError("must be addresses or networks such as 10.0.0.0/8") from error
        if any(network.prefixlen < _SHORTEST_PREFIX[network.version] for network in networks):
            raise ValueError(
                "must be your own proxies, not half the internet: whoever is named here is believed about"
                " who asks; name their addresses, or a network such as 10.0.0.0/8"
            )
        return networks
    return value


# Comma separated addresses and networks.
TrustedProxies = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_networks)]


def address_of(scope: Scope, trusted: Sequence[Network]) -> str:
    """The address of whoever asks."""
    peer: str = scope["client"][0] if scope.get("client") else _NOWHERE
    if is_trusted(peer, trusted):
        return _forwarded_for(scope, trusted) or peer
    return peer


def is_trusted(address: str, trusted: Sequence[Network]) -> bool:
    """Whether it is one of our own proxies'."""
    return bool(trusted) and _is_among(_parsed(address), trusted)


@lru_cache(maxsize=4096)
def source_of(address: str) -> str:
    """What an address is counted under: itself, or its /64 in IPv6."""
    parsed = _parsed(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed, _IPV6_PREFIX), strict=False))
    return str(parsed) if parsed else address


def _forwarded_for(scope: Scope, trusted: Sequence[Network]) -> str | None:
    """The last hop that is not ours; None when there is none, or something that is no address comes first."""
    lines = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
    hops = ",".join(lines).rsplit(",", _MAX_HOPS)[-_MAX_HOPS:]
    for hop in reversed(hops):
        address = _parsed(_without_port(hop.strip()))
        if address is None:
            return None
        if not _is_among(address, trusted):
            return str(address)
    return None


def _without_port(hop: str) -> str:
    """Some proxies tell the client's port, too (Azure's, Envoy when told so): 203.0.113.7:51234,
    [2001:db8::1]:443."""
    found = _WITH_PORT.fullmatch(hop)
    return found["v6"] or found["v4"] if found else hop


def _is_among(address: _Address | None, trusted: Sequence[Network]) -> bool:
    return address is not None and any(address in network for network in trusted)


def _parsed(text: str) -> _Address | None:
    """IPv4 within IPv6 is IPv4."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address
