"""Keeps pages of strangers away from a stand-in that listens on this machine and asks nobody who he is.

A page anywhere may let its own name point to 127.0.0.1 (DNS rebinding), and then reads what it likes: its
requests bear that name as their Host. And a page may send what it cannot read: browsers say so.
"""

from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

# Names that the internet's DNS never answers for: RFC 6761, RFC 9476, and those of a cluster.
_PRIVATE_ENDINGS = (".localhost", ".internal", ".svc", ".svc.cluster.local")
_READING = ("GET", "HEAD", "OPTIONS")


class OwnHost:
    """Lets through what is asked of an address, of a name without a dot, of a private name, or of `also`."""

    def __init__(self, app: ASGIApp, *, also: str | None = None) -> None:
        self._app = app
        self._also = also

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._refusal(scope)) is not None:
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        if not self._is_ours(_name_of(headers.get("host", ""))):
            return PlainTextResponse(
                "This is a local server: ask for it by its address or as localhost.", 421
            )
        if scope["method"] not in _READING and headers.get("sec-fetch-site") == "cross-site":
            return PlainTextResponse("Another site's page may not do this here.", 403)
        return None

    def _is_ours(self, name: str) -> bool:
        if not name or name == self._also or "." not in name or name.endswith(_PRIVATE_ENDINGS):
            return bool(name)
        return _is_address(name)


def _name_of(host: str) -> str:
    """Without the port, and without the brackets of IPv6."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].rstrip(".").lower()


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
