"""What every answer tells the browser: how little it may do with it.

The strictest that an API needs; a page that needs more brings a policy of its own (routes/pages.py).
"""

from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.settings import GatewaySettings

# Two years; without subdomains, which are not ours to decide about.
_HSTS = b"max-age=63072000"
_UNUSED_FEATURES = ("camera", "geolocation", "microphone", "payment", "usb")
NOTHING = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_ALWAYS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", NOTHING.encode()),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", ", ".join(f"{feature}=()" for feature in _UNUSED_FEATURES).encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    # For browsers that do not know frame-ancestors.
    (b"x-frame-options", b"DENY"),
)


class SecurityHeaders:
    """Adds those that an answer does not carry yet."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings) -> None:
        self._app = app
        is_https = urlsplit(settings.shop_url or "").scheme == "https"
        self._headers = (*_ALWAYS, *([(b"strict-transport-security", _HSTS)] if is_https else []))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                missing = [pair for pair in self._headers if pair[0] not in present]
                message["headers"] = [*message["headers"], *missing]
            await send(message)

        return await self._app(scope, receive, send_with_headers)
