"""Values of settings that are looked at when a process starts, and not when they are first used.

None of the messages repeats what was given: it may hold a password.
"""

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import AfterValidator, SecretStr

from services.chassis.crypto import EmailHasher, Keyring
from services.chassis.server_url import ENCODE, host_of, server_url

_WEB_SCHEMES = ("http", "https")


def _url(
    *schemes: str, has_path: bool = False, has_one_host: bool = False
) -> Callable[[SecretStr], SecretStr]:
    """Checks that it is a URL of one of the schemes; several hosts stand between commas where they may."""
    form = f"{schemes[0]}://[user:password@]host[:port]{'/name' if has_path else ''}"

    def check(value: SecretStr) -> SecretStr:
        try:
            url = server_url(value)
        except ValueError:
            url = None
        if (
            url is None
            or url.scheme not in schemes
            or (has_path and len(url.path) < 2)
            or (has_one_host and len(url.hosts) > 1)
        ):
            signs_in = "@" in value.get_secret_value()
            raise ValueError(f"must be {form}" + (f"; {ENCODE}" if signs_in else ""))
        return value

    return check


def _web_url(value: str) -> str:
    """An address of a page or of an API, where nobody signs in."""
    try:
        url = server_url(value)
    except ValueError:
        url = None
    if url is None or url.scheme not in _WEB_SCHEMES or url.user is not None or len(url.hosts) > 1:
        raise ValueError("must be http://host[:port] or https://host[:port]")
    return value


def _listen(value: str) -> str:
    try:
        is_whole = host_of(value).port is not None
    except ValueError:
        is_whole = False
    if not is_whole:
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
ValkeyUrl = Annotated[SecretStr, AfterValidator(_url("valkey", "valkeys", has_one_host=True))]
SmtpUrl = Annotated[SecretStr, AfterValidator(_url("smtp", "smtps", has_one_host=True))]
WebUrl = Annotated[str, AfterValidator(_web_url)]
# host:port, [host]:port for IPv6.
Listen = Annotated[str, AfterValidator(_listen)]
EncryptionKeys = Annotated[SecretStr, AfterValidator(_keys)]
HmacKey = Annotated[SecretStr, AfterValidator(_hmac_key)]
# `transaction`: a pooler gives us another session for each transaction, as PgBouncer does in this mode.
Pooling = Literal["session", "transaction"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
