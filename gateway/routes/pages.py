"""The few pages for people: the front door, where Stripe and mails lead to, what the API does."""

import base64
import hashlib
from html import escape
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, HTMLResponse

from gateway.errors import KINDS
from gateway.routing import PublicRoute
from gateway.security_headers import NOTHING

router = APIRouter(route_class=PublicRoute, include_in_schema=False)

# swagger-ui-dist 5.35.0 as it is in npm, so that the page works offline and under a policy.
_SWAGGER_UI = Path(str(files("gateway") / "web" / "swagger-ui"))
_KEPT = {"Cache-Control": "public, max-age=86400"}


def _read(name: str) -> str:
    return (files("gateway") / "web" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What a policy says to let this very script or style in."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


_STYLE = _read("style.css")
_STYLED = f"{NOTHING}; style-src {_hash(_STYLE)}"


def _page(name: str, *, policy: str = _STYLED, **parts: str) -> HTMLResponse:
    body = _read(name)
    for part, html in {"style": _STYLE, **parts}.items():
        body = body.replace(f"{{{{ {part} }}}}", html)
    return HTMLResponse(body, headers={"Content-Security-Policy": policy})


def _following_page(name: str) -> HTMLResponse:
    """A page whose script asks this origin for what it shows, and follows it."""
    script = _read("events.js") + _read(f"{name}.js")
    policy = f"{_STYLED}; script-src {_hash(script)}; connect-src 'self'"
    return _page(f"{name}.html", policy=policy, script=script)


def _code_rows() -> str:
    return "".join(
        f'<tr id="{code}"><td><code>{code}</code></td><td>{kind.status}</td>'
        f"<td>{escape(kind.title)}</td><td>{escape(kind.advice)}</td></tr>"
        for code, kind in KINDS.items()
    )


_HOME = _page("home.html")
_SUCCESS = _following_page("success")
_ORDER = _following_page("order")
_CANCEL = _page("cancel.html")
_ERRORS = _page("errors.html", rows=_code_rows())
_START = _read("docs.js")
_DOCS = _page(
    "docs.html",
    policy=f"{NOTHING}; script-src 'self' {_hash(_START)}; style-src 'self'; connect-src 'self'; "
    "img-src data:",
    script=_START,
)


@router.get("/")
async def home() -> HTMLResponse:
    return _HOME


@router.get("/checkout/success")
async def success() -> HTMLResponse:
    """Says only what is known here: Stripe sent the browser back; the webhook tells whether it paid. With the
    customer's token (success.js) it says that, too."""
    return _SUCCESS


@router.get("/checkout/cancel")
async def cancel() -> HTMLResponse:
    return _CANCEL


@router.get("/orders/{orderId}")
async def order() -> HTMLResponse:
    """The same for whoever asks: only the customer's token (order.js) shows the order."""
    return _ORDER


@router.get("/docs")
async def api_documentation() -> HTMLResponse:
    return _DOCS


@router.get("/docs/swagger-ui-bundle.js")
async def swagger_ui_script() -> FileResponse:
    return FileResponse(_SWAGGER_UI / "swagger-ui-bundle.js", headers=_KEPT)


@router.get("/docs/swagger-ui.css")
async def swagger_ui_style() -> FileResponse:
    return FileResponse(_SWAGGER_UI / "swagger-ui.css", headers=_KEPT)


@router.get("/docs/errors")
async def error_codes() -> HTMLResponse:
    """Where the `type` of every problem leads."""
    return _ERRORS
