"""The mailbox's pages and API."""

from html import escape

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from deploy.local.mailbox.letters import Letter, Letters

_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Mailbox</title><style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }}
body {{ max-width: 50rem; margin: 2rem auto; padding: 0 1rem }}
td, th {{ padding: .4rem .8rem .4rem 0; text-align: left }}
pre {{ white-space: pre-wrap; border: 1px solid #8884; border-radius: .5rem; padding: 1rem }}
iframe {{ width: 100%; height: 30rem; border: 1px solid #8884; border-radius: .5rem; background: white }}
</style></head><body>{body}</body></html>"""


def application(letters: Letters) -> Starlette:
    async def index(_: Request) -> Response:
        rows = "".join(
            f"<tr><td><a href='/messages/{letter.id}'>{escape(letter.subject) or '(no subject)'}</a></td>"
            f"<td>{escape(', '.join(letter.to))}</td><td>{letter.received_at:%H:%M:%S}</td></tr>"
            for letter in reversed(letters.all())
        )
        body = f"<h1>Mailbox</h1><table><tr><th>Subject</th><th>To</th><th>At</th></tr>{rows}</table>"
        return HTMLResponse(_PAGE.format(body=body))

    async def show(request: Request) -> Response:
        letter = letters.find(request.path_params["id"])
        if letter is None:
            return HTMLResponse(_PAGE.format(body="<h1>There is no such mail.</h1>"), 404)
        html = f"<iframe sandbox srcdoc='{escape(letter.html, quote=True)}'></iframe>" if letter.html else ""
        body = (
            f"<p><a href='/'>Mailbox</a></p><h1>{escape(letter.subject)}</h1>"
            f"<p>{escape(letter.sender)} → {escape(', '.join(letter.to))}</p>"
            f"{html}<pre>{escape(letter.text)}</pre>"
        )
        return HTMLResponse(_PAGE.format(body=body))

    async def listed(request: Request) -> Response:
        found = letters.all(to=request.query_params.get("to"))
        return JSONResponse({"items": [_as_json(letter) for letter in found]})

    async def clear(_: Request) -> Response:
        letters.clear()
        return Response(status_code=204)

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok")

    return Starlette(
        routes=[
            Route("/", index),
            Route("/messages/{id}", show),
            Route("/api/messages", listed, methods=["GET"]),
            Route("/api/messages", clear, methods=["DELETE"]),
            Route("/healthz", healthz),
        ]
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
