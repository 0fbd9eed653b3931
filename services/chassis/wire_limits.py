"""What one connection, and one address, may hold of a public port; http_protocol.py keeps to it."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.chassis.client_address import Network


@dataclass(frozen=True, slots=True)
class WireLimits:
    """`trusted`: our own proxies, whose connections are many people's."""

    head_bytes: int = 32 * 1024
    head_seconds: float = 10.0
    send_seconds: float = 30.0
    connections_per_address: int = 1_100
    trusted: Sequence[Network] = ()
