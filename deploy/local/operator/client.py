"""The gateway as an operator meets it: REST with an operator's token, and errors that fit on one line."""

import os
import pwd
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import UUID, uuid5

import httpx

from deploy.local import tokens
from deploy.local.stackfile import StackFile

JSON = dict[str, Any]
_DATA = Path(".aishop")
_URL, _TOKEN = "AISHOP_URL", "AISHOP_TOKEN"
# Longer than the gateway's own deadline: what it says of an outcome is worth more than our guess.
_ANSWER_SECONDS = 20.0
_TOKEN_SECONDS = 3600
_PAGE = 100
# Names this machine's users as operators; any UUID, but always this one.
_OPERATORS = UUID("5e0c9f5e-3a58-5d2b-9d0b-7a1f0f3f6c11")


class GatewayError(RuntimeError):
    """What the gateway refused, or why it was not reached, on one line."""

    def __init__(self, message: str, *, outcome_unknown: bool = False) -> None:
        super().__init__(message)
        # It may have taken effect all the same.
        self.outcome_unknown = outcome_unknown


class Gateway:
    """Raises GatewayError for whatever is not the answer."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def get(self, path: str, **params: object) -> JSON:
        return self._ask("GET", path, params=_given(params))

    def post(self, path: str, body: Mapping[str, object], *, key: str | None = None) -> JSON:
        """`key` is the Idempotency-Key of a route that takes one."""
        headers = {"Idempotency-Key": key} if key else {}
        return self._ask("POST", path, json=_given(body), headers=headers)

    def newest(self, path: str, *, limit: int, **params: object) -> list[JSON]:
        """The first `limit` items of a list, page by page."""
        items: list[JSON] = []
        cursor = None
        while len(items) < limit:
            page = self.get(path, limit=min(limit - len(items), _PAGE), cursor=cursor, **params)
            items += page["items"]
            cursor = page["nextCursor"]
            if cursor is None:
                break
        return items

    def order_id(self, order: str) -> str:
        """The id of an order that is named by its id or by its number."""
        if "-" in order:
            return order
        found = self.get("/api/admin/orders", number=order)["items"]
        if not found:
            raise GatewayError(f"no order has the number {order}")
        if len(found) > 1:
            ids = ", ".join(each["orderId"] for each in found)
            raise GatewayError(f"several orders have the number {order}, give the id of one: {ids}")
        return str(found[0]["orderId"])

    def _ask(self, method: str, path: str, **request: Any) -> JSON:
        try:
            answer = self._http.request(method, path, **request)
        except httpx.HTTPError as error:
            failed = f"no answer from {self._http.base_url}: {str(error) or type(error).__name__}"
            raise GatewayError(failed, outcome_unknown=True) from error
        document = _document(answer)
        if answer.is_success and document is not None:
            return document
        raise GatewayError(_one_line(answer, document), outcome_unknown=answer.is_server_error)


class _Entrance(NamedTuple):
    url: str
    token: str
    is_local: bool


@contextmanager
def gateway_of(data: Path | None, stack: Path | None) -> Iterator[Gateway]:
    """The gateway of the stack that is named, else of AISHOP_URL, else of the stack in .aishop."""
    entrance = _entrance(data, stack)
    try:
        http = httpx.Client(
            base_url=entrance.url,
            headers={"Authorization": f"Bearer {entrance.token}"},
            timeout=_ANSWER_SECONDS,
            # A proxy is for the way to another machine.
            trust_env=not entrance.is_local,
        )
    except httpx.InvalidURL as error:
        raise GatewayError(f"{_URL} is not a URL: {error}") from error
    with http:
        yield Gateway(http)


def segment(value: str) -> str:
    """An id as one segment of a path, whatever it holds."""
    return quote(value, safe="")


def operator_id(user_id: int) -> UUID:
    """Who the audit log names: the same for a user of this system for ever."""
    try:
        name = pwd.getpwuid(user_id).pw_name
    except KeyError:
        # A container runs under any number.
        name = str(user_id)
    return uuid5(_OPERATORS, name)


def _entrance(data: Path | None, stack: Path | None) -> _Entrance:
    url = os.environ.get(_URL)
    if url and data is None and stack is None:
        return _Entrance(_checked_url(url), _checked_token(os.environ.get(_TOKEN, "")), is_local=False)
    file = StackFile.read(stack or data or _DATA)
    token = tokens.mint(
        secret=file.auth_jwt_secret,
        user_id=operator_id(os.getuid()),
        email=None,
        operator=True,
        ttl_seconds=_TOKEN_SECONDS,
    )
    return _Entrance(file.gateway_url, token, is_local=True)


def _checked_url(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise GatewayError(f"{_URL} is an origin such as https://shop.example.com, which {url!r} is not")
    return url


def _checked_token(given: str) -> str:
    """Never printed: it is a secret."""
    token = given.strip()
    if not token:
        raise GatewayError(f"{_URL} is set without {_TOKEN}, an operator's access token")
    if not token.isascii() or not token.isprintable():
        raise GatewayError(f"{_TOKEN} holds characters that no token has")
    return token


def _given(values: Mapping[str, object]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _document(answer: httpx.Response) -> JSON | None:
    try:
        document = answer.json()
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _one_line(answer: httpx.Response, problem: JSON | None) -> str:
    """`code: title. detail`, and what is wrong with which field."""
    if problem is None or "code" not in problem:
        return f"{answer.url} answered {answer.status_code}, not as the gateway does: is {_URL} its origin?"
    said = [f"{problem['code']}: {problem.get('title', '')}", problem.get("detail")]
    said += [f"{wrong.get('field')}: {wrong.get('message')}" for wrong in problem.get("errors", ())]
    return ". ".join(part for part in said if part)
