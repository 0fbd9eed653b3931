"""The URL of a server with who signs in there, as every setting of that kind is read (RFC 3986).

User and password are percent-decoded. Libraries that take the whole URL (libpq, Valkey's) decode by
themselves; what they would cut elsewhere, such as a raw `@` or `/` in a password, is refused here first.
"""

import re
from dataclasses import dataclass, field
from urllib.parse import unquote

from pydantic import SecretStr

# RFC 3986, 3.2.1: unreserved, percent-encoded, sub-delims; and ":", which may stand in a password again.
_SIGN_IN_CHARACTER = r"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})"
_URL = re.compile(
    r"(?P<scheme>[a-z0-9+]+)://"
    rf"(?:(?P<user>{_SIGN_IN_CHARACTER}*)(?::(?P<password>(?:{_SIGN_IN_CHARACTER}|:)*))?@)?"
    r"(?P<hosts>[^\s/@?#]+)(?P<path>/[^\s?#@]*)?(?:\?[^\s#@]*)?"
)
_HOST = re.compile(r"(?:(?P<name>[\w.-]+)|\[(?P<ipv6>[0-9a-fA-F:.]+)\])(?::(?P<port>[0-9]{1,5}))?")
_MAX_PORT = 65535
ENCODE = (
    "in user and password, every character but letters, digits and -._~ is written as % and its two hex"
    " digits: @ is %40, / is %2F, % is %25"
)


@dataclass(frozen=True, slots=True)
class Host:
    """`port` is None when the scheme's own is meant."""

    name: str
    port: int | None

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port is None else f"{name}:{self.port}"


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """`user` and `password` are decoded, None when not given; several `hosts` are one cluster."""

    scheme: str
    user: str | None = field(repr=False)
    password: str | None = field(repr=False)
    hosts: tuple[Host, ...]
    path: str


def server_url(text: str | SecretStr) -> ServerUrl:
    """ValueError, without a word of what was given, for what is no such URL."""
    text = text.get_secret_value() if isinstance(text, SecretStr) else text
    found = _URL.fullmatch(text)
    if not found:
        raise ValueError("is no URL of a server")
    return ServerUrl(
        scheme=found["scheme"],
        user=_decoded(found["user"]),
        password=_decoded(found["password"]),
        hosts=tuple(host_of(host) for host in found["hosts"].split(",")),
        path=found["path"] or "",
    )


def host_of(text: str) -> Host:
    """`host[:port]`, `[host]:port` for IPv6; ValueError for anything else."""
    found = _HOST.fullmatch(text)
    if not found or int(found["port"] or 0) > _MAX_PORT:
        raise ValueError("is no host:port")
    return Host(found["name"] or found["ipv6"], int(found["port"]) if found["port"] else None)


def _decoded(text: str | None) -> str | None:
    """ValueError for bytes that are no UTF-8."""
    return None if text is None else unquote(text, errors="strict")
