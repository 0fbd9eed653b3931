"""The few pages for people: the front door, where Stripe sends the browser back to, and the error codes."""

import base64
import hashlib
from html import escape
from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import HTMLResponse

from gateway.errors import KINDS
from gateway.routing import PublicRoute

router = APIRouter(route_class=PublicRoute, include_in_schema=False)

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
}


def _read(name: str) -> str:
    return (files("gateway") / "web" / name).read_text(encoding="utf-8")


def _page(name: str, **parts: str) -> HTMLResponse:
    body = _read(name)
    for part, html in {"style": _read("style.css"), **parts}.items():
        body = body.replace(f"{{{{ {part} }}}}", html)
    return HTMLResponse(body, headers=_HEADERS)


def _allowing(script: str) -> str:
    """The policy of a page that runs this one script, which asks this origin alone."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"default-src 'none'; script-src 'sha256-{digest}'; connect-src 'self'"
    return _HEADERS["Content-Security-Policy"].replace("default-src 'none'", allowed)


def _code_rows() -> str:
    return "".join(
        f'<tr id="{code}"><td><code>{code}</code></td><td>{kind.status}</td>'
        f"<td>{escape(kind.title)}</td><td>{escape(kind.advice)}</td></tr>"
        for code, kind in KINDS.items()
    )


_HOME = _page("home.html")
_FOLLOW = _read("follow.js")
_SUCCESS = _page("success.html", script=_FOLLOW)
_SUCCESS.headers["Content-Security-Policy"] = _allowing(_FOLLOW)
_CANCEL = _page("cancel.html")
_ERRORS = _page("errors.html", rows=_code_rows())


@router.get("/")
async def home() -> HTMLResponse:
    return _HOME


@router.get("/checkout/success")
async def success() -> HTMLResponse:
    """Says only what is known here: Stripe sent the browser back; the webhook tells whether it paid. With the
    customer's token (follow.js) it says that, too."""
    return _SUCCESS


@router.get("/checkout/cancel")
async def cancel() -> HTMLResponse:
    return _CANCEL


@router.get("/docs/errors")
async def error_codes() -> HTMLResponse:
    """Where the `type` of every problem leads."""
    return _ERRORS
