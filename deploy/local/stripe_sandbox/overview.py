"""The front page: what this is, and what happened lately. A local stand-in hides nothing from its user."""

import json
from datetime import UTC, datetime
from html import escape

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deploy.local.stripe_sandbox import checkout
from deploy.local.stripe_sandbox.html import money, page
from deploy.local.stripe_sandbox.sandbox import Sandbox
from deploy.local.stripe_sandbox.store import Object, Page

_SHOWN = 25


class Overview:
    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def front(self, _: Request) -> Response:
        """GET /"""
        sessions, _more = self._sandbox.store.page(checkout.KIND, Page(limit=_SHOWN))
        events, _more = self._sandbox.store.page("event", Page(limit=_SHOWN))
        body = (
            "<h1>Stripe sandbox</h1><p>Stands in for Stripe on this machine: the shop’s official client "
            "talks to <code>/v1</code>, customers pay at <code>/c/pay/…</code>, signed webhooks go out. No "
            "money moves.</p>"
            + _table("Recent sessions", ("Session", "Amount", "Status", "Created"), map(_session, sessions))
            + _table("Recent events", ("Event", "Type", "Delivered", "Created"), map(_event, events))
        )
        return page("Stripe sandbox", body, wide=True)

    async def event(self, request: Request) -> Response:
        """GET /events/{id}"""
        found = self._sandbox.store.find("event", request.path_params["id"])
        if found is None:
            return page("Not found", "<h1>Not found</h1><p>No such event.</p>", status=404)
        text = escape(json.dumps(found.body, indent=2))
        body = f'<h1>{escape(found.body["type"])}</h1><p><a href="/">All events</a></p><pre>{text}</pre>'
        return page(found.body["type"], body, wide=True)

    async def health(self, _: Request) -> Response:
        """GET /healthz"""
        return JSONResponse({"status": "ok"})


def _table(caption: str, heads: tuple[str, ...], rows: "map[tuple[str, ...]]") -> str:
    head = "".join(f"<th scope=col>{name}</th>" for name in heads)
    cells = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{cells or '<tr><td>none yet</td></tr>'}</tbody></table>"
    )


def _session(session: Object) -> tuple[str, ...]:
    return (
        f'<a href="/c/pay/{session["id"]}">{session["id"][:24]}…</a>',
        escape(money(session["amount_total"], session["currency"])),
        f"{session['status']}, {session['payment_status']}",
        _time(session["created"]),
    )


def _event(event: Object) -> tuple[str, ...]:
    link = f'<a href="/events/{event["id"]}">{event["id"]}</a>'
    delivered = "no" if event["pending_webhooks"] else "yes"
    return link, escape(event["type"]), delivered, _time(event["created"])


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def routes(sandbox: Sandbox) -> list[Route]:
    overview = Overview(sandbox)
    return [
        Route("/", overview.front, methods=["GET"]),
        Route("/events/{id}", overview.event, methods=["GET"]),
        Route("/healthz", overview.health, methods=["GET"]),
    ]
