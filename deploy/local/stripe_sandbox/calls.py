"""One API call on its way through: who calls, which call it is, what accident befalls it, its answer."""

import asyncio
import base64
import binascii
import hmac
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deploy.local.stripe_sandbox import checkout, forms, idempotency, listing
from deploy.local.stripe_sandbox.errors import Answer, Refusal, no_such, of_status
from deploy.local.stripe_sandbox.events import Origin
from deploy.local.stripe_sandbox.expansion import expand
from deploy.local.stripe_sandbox.faults import Fault
from deploy.local.stripe_sandbox.ids import new_id
from deploy.local.stripe_sandbox.objects import API_VERSION
from deploy.local.stripe_sandbox.params import Params
from deploy.local.stripe_sandbox.sandbox import Sandbox
from deploy.local.stripe_sandbox.store import Condition, Object
from services.chassis import logs

log = logs.get(__name__)

_MAX_BODY_BYTES = 256 * 1024
_MAX_EXPANSIONS = 20
_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(\.[a-z]+)?")
# How long a webhook may overtake its answer when the fault does not say.
_OVERTAKING_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler gets. `path` holds the ids of the address."""

    params: Params
    path: dict[str, str]
    url: str
    origin: Origin
    now: int


Handler = Callable[[Sandbox, Call], Object]


def found(sandbox: Sandbox, call: Call, kind: str, *, param: str) -> Object:
    """The object that the address names; Refusal when there is none."""
    stored = sandbox.store.find(kind, call.path["id"])
    if stored is None:
        raise no_such(kind, call.path["id"], param=param)
    return stored.body


def listed(sandbox: Sandbox, call: Call, kind: str, conditions: list[Condition]) -> Object:
    """A page of the objects that meet the conditions; whatever parameter is unread by now is unknown."""
    page = listing.read_page(sandbox.store, kind, call.params, conditions)
    call.params.finish()
    return listing.answer(sandbox.store, kind, page, url=call.url)


class Caller:
    """Turns requests into calls of handlers."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        # Keys whose call has not been answered yet.
        self._busy: set[str] = set()

    def endpoint(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            return await self._handle(request, handler)

        return handle

    async def _handle(self, request: Request, handler: Handler) -> Response:
        request_id = new_id("req_", 14)
        key = request.headers.get("idempotency-key") if request.method == "POST" else None
        headers = {"Request-Id": request_id, "Stripe-Version": API_VERSION}
        try:
            authenticate(request, self._sandbox.secret_key)
            headers["Stripe-Version"] = _version(request)
            if key is not None:
                idempotency.check(key)
                headers["Idempotency-Key"] = key
            tree = await _read(request)
            answer = await _Attempt(self._sandbox, self._busy, request, tree, Origin(request_id, key)).answer(
                handler
            )
        except Refusal as refusal:
            answer = refusal.answer()
        if answer.replayed:
            headers["Idempotent-Replayed"] = "true"
        if answer.status == 401:
            headers["WWW-Authenticate"] = 'Basic realm="Stripe"'
        log.info("call.answered", path=request.url.path, status=answer.status, request_id=request_id)
        body = orjson.dumps(answer.body, option=orjson.OPT_INDENT_2)
        kind = _CutResponse if answer.is_cut else Response
        return kind(body, status_code=answer.status, headers=headers, media_type="application/json")


class _CutResponse(Response):
    """Breaks off where its body should begin: the server closes a connection whose answer is not whole."""

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})


class _Attempt:
    """One request: the accident that befalls it, if any, around the one synchronous step that settles it."""

    def __init__(
        self, sandbox: Sandbox, busy: set[str], request: Request, tree: forms.Tree, origin: Origin
    ) -> None:
        self._sandbox = sandbox
        self._busy = busy
        self._origin = origin
        self._tree = tree
        self._method, self._url = request.method, request.url.path
        self._path = dict(request.path_params)
        self._fingerprint = idempotency.fingerprint(self._method, self._url, tree)
        self._now = int(time.time())

    async def answer(self, handler: Handler) -> Answer:
        fault = self._sandbox.faults.take(self._method, self._url, self._tree)
        if fault is None:
            return self._settle(handler)
        if fault.kind == "webhook_before_answer":
            return await self._overtaken(handler, fault)
        if fault.kind == "timeout_after_effect":
            answer = self._settle(handler)
            await asyncio.sleep(fault.delay_seconds)
            return answer
        await asyncio.sleep(fault.delay_seconds)
        if fault.kind == "listing_lacks":
            answer = self._settle(handler)
            is_list = answer.body.get("object") == "list"
            return replace(answer, body=fault.shortened(answer.body)) if is_list else answer
        if fault.kind == "cut_after_effect":
            return replace(self._settle(handler), is_cut=True)
        if fault.kind == "timeout_before_effect":
            raise of_status(504)
        if fault.kind == "error_after_effect":
            return self._settle(handler, instead=of_status(fault.status).answer())
        return self._scripted(fault)

    def _scripted(self, fault: Fault) -> Answer:
        """No effect; a 500 is a failure inside Stripe, which it keeps under the key."""
        refusal = of_status(fault.status)
        if not refusal.executed:
            raise refusal

        def fail(_: Sandbox, __: Call) -> Object:
            raise refusal

        return self._settle(fail)

    async def _overtaken(self, handler: Handler, fault: Fault) -> Answer:
        key = self._origin.idempotency_key
        answer = self._settle(handler)
        if answer.replayed or answer.body.get("object") != checkout.KIND:
            return answer
        with self._sandbox.store.transaction():
            events = checkout.pay(self._sandbox.store, answer.body["id"], now=self._now)
        self._sandbox.sender.wake()
        self._busy |= {key} if key else set()
        try:
            seconds = fault.delay_seconds or _OVERTAKING_SECONDS
            await self._sandbox.sender.all_taken(events, within_seconds=seconds)
        finally:
            self._busy.discard(key or "")
        return answer

    def _settle(self, handler: Handler, *, instead: Answer | None = None) -> Answer:
        """Replays, or runs the handler and keeps its answer (or the one `instead`) in one transaction."""
        key, store = self._origin.idempotency_key, self._sandbox.store
        if key in self._busy:
            raise of_status(409)
        with store.transaction():
            kept = idempotency.replay(store, key, call=self._fingerprint, now=self._now) if key else None
            if kept:
                return kept
            answer = self._run(handler)
            answer = instead or answer
            if key:
                idempotency.keep(store, key, call=self._fingerprint, answer=answer, now=self._now)
        self._sandbox.sender.wake()
        return answer

    def _run(self, handler: Handler) -> Answer:
        params = Params(self._tree)
        paths = params.texts("expand", most=_MAX_EXPANSIONS)
        call = Call(params=params, path=self._path, url=self._url, origin=self._origin, now=self._now)
        # Whatever is asked, it is asked of sessions whose time is not over.
        checkout.expire_due(self._sandbox.store, now=self._now)
        try:
            body = handler(self._sandbox, call)
        except Refusal as refusal:
            if not refusal.executed:
                raise
            return refusal.answer()
        return Answer(200, expand(self._sandbox.store, body, paths))


def authenticate(request: Request, secret_key: str) -> None:
    """Refusal unless the secret key came as a bearer token or as the user of basic authentication."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    given = value.strip() if scheme.lower() == "bearer" else _basic_user(scheme, value)
    if not given:
        message = "You did not provide an API key. Send it in the Authorization header, as a bearer token."
        raise Refusal(401, message)
    if not hmac.compare_digest(given.encode(), secret_key.encode()):
        # Stripe shows the ends of the key; a log of errors is no place for any of it.
        raise Refusal(401, "Invalid API Key provided: ********")


def _basic_user(scheme: str, value: str) -> str:
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value, validate=True).decode("utf-8").partition(":")[0]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _version(request: Request) -> str:
    """The version that the caller pins. The sandbox speaks one only, and says the caller's name for it."""
    version = request.headers.get("stripe-version", API_VERSION)
    if not _VERSION.fullmatch(version):
        raise Refusal(400, f"Invalid Stripe API version: {version}")
    return version


async def _read(request: Request) -> forms.Tree:
    if request.method in ("GET", "DELETE"):
        return forms.decode(request.url.query.encode())
    kind = request.headers.get("content-type", "application/x-www-form-urlencoded")
    if not kind.startswith("application/x-www-form-urlencoded"):
        message = "Invalid request (check that your POST content type is application/x-www-form-urlencoded)."
        raise Refusal(400, message)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_BODY_BYTES:
                raise Refusal(413, "The request body is too large.")
    except ClientDisconnect as error:
        raise Refusal(400, "The request body ended early.") from error
    return forms.decode(bytes(body))
