"""The mailbox's pages and API."""

from html import escape

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from deploy.local.mailbox.faults import Fault, Faults
from deploy.local.mailbox.letters import Letter, read
from deploy.local.mailbox.store import Store

# More than that in one answer helps no one; the newest are the ones.
_MAX_LISTED = 1_000
_SHOWN = 100
# A mail's HTML runs no script, loads nothing, and has no origin: the frame is sandboxed, and inherits this.
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# Its links open beside it, as in a mail program: the shop's pages let nobody frame them.
_CAGE = "allow-popups allow-popups-to-escape-sandbox"
_BASE = '<base target="_blank">'
_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { width: 100%; border-collapse: collapse }
td, th { padding: .4rem .8rem .4rem 0; text-align: left; border-bottom: 1px solid #8884; vertical-align: top }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid #8884; border-radius: .5rem;
  padding: 1rem }
iframe { width: 100%; height: 30rem; border: 1px solid #8884; border-radius: .5rem; background: white }
"""


class Web:
    def __init__(self, store: Store, faults: Faults) -> None:
        self._store = store
        self._faults = faults

    async def front(self, _: Request) -> Response:
        """GET /"""
        letters = [read(mail) for mail in self._store.latest(to=None, limit=_SHOWN)]
        rows = "".join(_row(letter) for letter in reversed(letters))
        return _page(
            "Mailbox",
            f"<h1>Mailbox</h1><table><caption>The latest {_SHOWN}, newest first</caption><thead><tr>"
            "<th scope=col>Subject</th><th scope=col>To</th><th scope=col>Received</th></tr></thead>"
            f"<tbody>{rows or '<tr><td>No mail yet.</td></tr>'}</tbody></table>",
        )

    async def show(self, request: Request) -> Response:
        """GET /messages/{id}"""
        number = request.path_params["id"]
        mail = self._store.find(int(number)) if number.isdecimal() and len(number) < 18 else None
        if mail is None:
            return _page("Not found", "<h1>There is no such mail.</h1><p><a href='/'>Mailbox</a></p>", 404)
        return _page("Mail", _letter(read(mail)))

    async def messages(self, request: Request) -> Response:
        """GET /api/messages?to=&limit=: newest last."""
        limit = request.query_params.get("limit", str(_MAX_LISTED))
        if not limit.isdecimal() or not 1 <= int(limit[:9]) <= _MAX_LISTED:
            return JSONResponse({"error": f"limit: 1 to {_MAX_LISTED}"}, 400)
        mails = self._store.latest(to=request.query_params.get("to"), limit=int(limit))
        return JSONResponse({"items": [_as_json(read(mail)) for mail in mails]})

    async def clear(self, _: Request) -> Response:
        """DELETE /api/messages"""
        self._store.clear()
        return Response(status_code=204)

    async def add_fault(self, request: Request) -> Response:
        """POST /_control/faults"""
        try:
            fault = Fault.model_validate_json(await request.body())
        except ValidationError as error:
            return JSONResponse({"error": str(error)}, 400)
        self._faults.add(fault)
        return JSONResponse(fault.model_dump(), 201)

    async def clear_faults(self, _: Request) -> Response:
        """DELETE /_control/faults"""
        self._faults.clear()
        return JSONResponse({"faults": 0})

    async def health(self, _: Request) -> Response:
        """GET /healthz"""
        return JSONResponse({"status": "ok"})


def application(store: Store, faults: Faults) -> Starlette:
    web = Web(store, faults)
    return Starlette(
        routes=[
            Route("/", web.front, methods=["GET"]),
            Route("/messages/{id}", web.show, methods=["GET"]),
            Route("/api/messages", web.messages, methods=["GET"]),
            Route("/api/messages", web.clear, methods=["DELETE"]),
            Route("/_control/faults", web.add_fault, methods=["POST"]),
            Route("/_control/faults", web.clear_faults, methods=["DELETE"]),
            Route("/healthz", web.health, methods=["GET"]),
        ]
    )


def _page(title: str, body: str, status: int = 200) -> Response:
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body>{body}</body></html>"
    )
    return HTMLResponse(text, status, _HEADERS)


def _row(letter: Letter) -> str:
    return (
        f'<tr><td><a href="/messages/{letter.id}">{escape(letter.subject) or "(no subject)"}</a></td>'
        f"<td>{escape(', '.join(letter.to))}</td><td>{letter.received_at:%Y-%m-%d %H:%M:%S} UTC</td></tr>"
    )


def _letter(letter: Letter) -> str:
    lines = (
        ("From", letter.sender),
        ("To", ", ".join(letter.to)),
        ("Date", letter.date),
        ("Message-ID", letter.message_id),
    )
    heads = "".join(f"<tr><th scope=row>{name}</th><td>{escape(value)}</td></tr>" for name, value in lines)
    frame = ""
    if letter.html is not None:
        page = escape(_BASE + letter.html)
        frame = f'<iframe sandbox="{_CAGE}" title="The mail as HTML" srcdoc="{page}"></iframe>'
    return (
        f'<p><a href="/">Mailbox</a></p><h1>{escape(letter.subject) or "(no subject)"}</h1>'
        f"<table>{heads}</table>{frame}<pre>{escape(letter.text)}</pre>"
    )


def _as_json(letter: Letter) -> dict[str, object]:
    return {
        "id": letter.id,
        "from": letter.sender,
        "to": letter.to,
        "subject": letter.subject,
        "messageId": letter.message_id,
        "date": letter.date,
        "text": letter.text,
        "html": letter.html,
        "receivedAt": letter.received_at.isoformat(),
    }
