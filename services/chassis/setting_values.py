"""Values of settings that are looked at when a process starts, and not when they are first used.

None of the messages repeats what was given: it may hold a password.
"""

import re
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import AfterValidator, SecretStr

from services.chassis.crypto import EmailHasher, Keyring

_URL = re.compile(r"(?P<scheme>[a-z0-9+]+)://(?:[^\s/@]*@)?(?P<hosts>[^\s/@]+)(?P<path>/[^\s?]*)?(?:\?\S*)?")
_HOST = re.compile(r"(?:[\w.-]+|\[[0-9a-fA-F:.]+\])(?::(?P<port>[0-9]{1,5}))?")
_MAX_PORT = 65535


def _url(*schemes: str, has_path: bool = False) -> Callable[[SecretStr], SecretStr]:
    """Checks that it is a URL of one of the schemes; several hosts stand between commas."""
    form = f"{schemes[0]}://[user:password@]host[:port]{'/name' if has_path else ''}"

    def check(value: SecretStr) -> SecretStr:
        found = _URL.fullmatch(value.get_secret_value())
        is_url = found and found["scheme"] in schemes and all(map(_is_host, found["hosts"].split(",")))
        if not found or not is_url or (has_path and len(found["path"] or "") < 2):
            raise ValueError(f"must be {form}")
        return value

    return check


def _is_host(text: str) -> bool:
    found = _HOST.fullmatch(text)
    return found is not None and int(found["port"] or 0) <= _MAX_PORT


def _listen(value: str) -> str:
    found = _HOST.fullmatch(value)
    if not found or not found["port"] or int(found["port"]) > _MAX_PORT:
        raise ValueError("must be host:port")
    return value


def _keys(value: SecretStr) -> SecretStr:
    try:
        Keyring(value)
    except ValueError as error:
        raise ValueError("must be kid:base64url(32 bytes)[,kid:...]") from error
    return value


def _hmac_key(value: SecretStr) -> SecretStr:
    try:
        EmailHasher(value)
    except ValueError as error:
        raise ValueError("must be base64url(32 bytes)") from error
    return value


PostgresUrl = Annotated[SecretStr, AfterValidator(_url("postgresql", has_path=True))]
NatsUrl = Annotated[SecretStr, AfterValidator(_url("nats", "tls"))]
ValkeyUrl = Annotated[SecretStr, AfterValidator(_url("valkey", "valkeys"))]
SmtpUrl = Annotated[SecretStr, AfterValidator(_url("smtp", "smtps"))]
# host:port, [host]:port for IPv6.
Listen = Annotated[str, AfterValidator(_listen)]
EncryptionKeys = Annotated[SecretStr, AfterValidator(_keys)]
HmacKey = Annotated[SecretStr, AfterValidator(_hmac_key)]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
