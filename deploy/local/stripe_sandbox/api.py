"""`/v1`: the part of Stripe's API that the shop uses, for the official client."""

import asyncio
import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deploy.local.stripe_sandbox import errors, forms
from deploy.local.stripe_sandbox.errors import StripeError
from deploy.local.stripe_sandbox.faults import Fault, Faults
from deploy.local.stripe_sandbox.objects import Fields, event, session
from deploy.local.stripe_sandbox.store import Store
from deploy.local.stripe_sandbox.till import KIND, Till

_MAX_PAGE = 100
_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "gt": int.__gt__,
    "gte": int.__ge__,
    "lt": int.__lt__,
    "lte": int.__le__,
}

Call = Callable[[Request, Fields], Fields]


class Api:
    """Each call: key → fault → idempotency → the call itself."""

    def __init__(self, store: Store, till: Till, faults: Faults, *, secret_key: str) -> None:
        self._store = store
        self._till = till
        self._faults = faults
        self._secret_key = secret_key
        self._in_flight: set[str] = set()

    def routes(self) -> list[Route]:
        table: list[tuple[str, str, Call]] = [
            ("POST", "/v1/checkout/sessions", self._create_session),
            ("GET", "/v1/checkout/sessions", self._list_sessions),
            ("GET", "/v1/checkout/sessions/{id}", self._get_session),
            ("POST", "/v1/checkout/sessions/{id}/expire", self._expire_session),
            ("GET", "/v1/payment_intents/{id}", self._getter("payment_intent")),
            ("GET", "/v1/charges/{id}", self._getter("charge")),
            ("GET", "/v1/events", self._list_events),
            ("GET", "/v1/events/{id}", self._getter("event")),
        ]
        return [Route(path, self._endpoint(call), methods=[method]) for method, path, call in table]

    def _endpoint(self, call: Call) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            headers = {
                "Request-Id": f"req_{secrets.token_hex(7)}",
                "Stripe-Version": request.headers.get("stripe-version", event.API_VERSION),
            }
            try:
                status, body, replayed = await self._answer(request, call)
            except StripeError as error:
                status, body, replayed = error.status, error.body, False
            if replayed:
                headers["Idempotent-Replayed"] = "true"
            return JSONResponse(body, status, headers)

        return endpoint

    async def _answer(self, request: Request, call: Call) -> tuple[int, Fields, bool]:
        self._check_key(request)
        raw = (await request.body()).decode()
        key = request.headers.get("idempotency-key") if request.method == "POST" else None
        if key is None:
            status, body = await self._with_fault(request, raw, call)
            return status, body, False
        fingerprint = hashlib.sha256(f"{request.method} {request.url.path}\n{raw}".encode()).hexdigest()
        if key in self._in_flight:
            raise errors.fault(409)
        stored = self._store.answer(key)
        if stored is not None:
            return self._replay(stored, fingerprint)
        self._in_flight.add(key)
        try:
            status, body = await self._with_fault(request, raw, call, key=key, fingerprint=fingerprint)
        finally:
            self._in_flight.discard(key)
        return status, body, False

    def _replay(self, stored: tuple[str, int, Fields], fingerprint: str) -> tuple[int, Fields, bool]:
        known, status, body = stored
        if known != fingerprint:
            message = "Keys for idempotent requests can only be used with the same parameters."
            raise StripeError(400, "idempotency_error", message)
        return status, body, True

    async def _with_fault(
        self, request: Request, raw: str, call: Call, *, key: str | None = None, fingerprint: str = ""
    ) -> tuple[int, Fields]:
        fault = self._faults.take(request.method, request.url.path)
        await _before_effect(fault)
        status, body = self._call(request, raw, call)
        if fault is not None and fault.kind == "error_after_effect":
            status, body = fault.status, errors.fault(fault.status).body
        # Refusals of the parameters are not stored by Stripe either.
        if key is not None and not 400 <= status < 500:
            with self._store.change():
                self._store.keep_answer(key, fingerprint, status, body)
        if fault is not None and fault.kind == "timeout_after_effect":
            await asyncio.sleep(fault.delay_ms / 1000)
        return status, body

    def _call(self, request: Request, raw: str, call: Call) -> tuple[int, Fields]:
        try:
            form = forms.decode(raw if request.method == "POST" else request.url.query)
            return 200, call(request, form)
        except StripeError as error:
            return error.status, error.body
        except ValueError as error:
            return 400, StripeError(400, "invalid_request_error", str(error)).body

    def _check_key(self, request: Request) -> None:
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            value = base64.b64decode(value + "==").decode(errors="replace").partition(":")[0]
        if not hmac.compare_digest(value.encode(), self._secret_key.encode()):
            raise errors.wrong_key()

    def _create_session(self, _: Request, form: Fields) -> Fields:
        return session.shown(self._till.open(form))

    def _get_session(self, request: Request, form: Fields) -> Fields:
        expand = "line_items" in (form.get("expand") or [])
        return session.shown(self._till.find(request.path_params["id"]), expand=expand)

    def _expire_session(self, request: Request, _: Fields) -> Fields:
        return session.shown(self._till.expire(request.path_params["id"]))

    def _list_sessions(self, request: Request, form: Fields) -> Fields:
        wanted = {name: form[name] for name in ("status", "payment_intent", "customer") if name in form}
        found = [
            session.shown(each)
            for each in self._store.all(KIND)
            if all(each[name] == value for name, value in wanted.items())
        ]
        return _page(found, form, request.url.path)

    def _list_events(self, request: Request, form: Fields) -> Fields:
        types = form.get("types") or ([form["type"]] if "type" in form else None)
        found = [each for each in self._store.all("event") if types is None or each["type"] in types]
        if "delivery_success" in form:
            delivered = form["delivery_success"] == "true"
            undelivered = set(self._store.undelivered())
            found = [each for each in found if (each["id"] not in undelivered) == delivered]
        return _page(found, form, request.url.path)

    def _getter(self, kind: str) -> Call:
        def get(request: Request, _: Fields) -> Fields:
            id = request.path_params["id"]
            found = self._store.find(kind, id)
            if found is None:
                raise errors.no_such(kind, id)
            return found

        return get


async def _before_effect(fault: Fault | None) -> None:
    if fault is None:
        return
    if fault.kind == "timeout_before_effect":
        await asyncio.sleep(fault.delay_ms / 1000)
        raise errors.fault(504)
    if fault.kind == "status":
        raise errors.fault(fault.status)


def _page(found: list[Fields], form: Fields, url: str) -> Fields:
    """Newest first; `starting_after` goes on to older ones, `ending_before` back to newer ones."""
    limit = min(_MAX_PAGE, max(1, int(form.get("limit", "10"))))
    kept = [each for each in found if _is_within(each["created"], form.get("created"))]
    ids = [each["id"] for each in kept]
    if "starting_after" in form:
        kept = kept[_place(ids, form["starting_after"]) + 1 :]
    elif "ending_before" in form:
        kept = kept[: _place(ids, form["ending_before"])][-limit:]
    return {"object": "list", "url": url, "has_more": len(kept) > limit, "data": kept[:limit]}


def _place(ids: list[str], id: str) -> int:
    if id not in ids:
        raise errors.no_such("object", id, param="starting_after")
    return ids.index(id)


def _is_within(created: int, bounds: object) -> bool:
    if isinstance(bounds, dict):
        return all(_COMPARISONS[name](created, int(value)) for name, value in bounds.items())
    return bounds is None or created == int(str(bounds))
