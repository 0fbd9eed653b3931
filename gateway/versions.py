"""Versions at the border: the ETag of an answer, and the If-Match that refuses to change a newer one."""

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gateway.problems import ProblemError

_IF_MATCH = "If-Match"
_ETAG = re.compile(r'"([0-9]{1,18})"')


def if_match(of: str) -> dict[str, Any]:
    """The header's OpenAPI parameter."""
    return {
        "name": _IF_MATCH,
        "in": "header",
        "required": False,
        "description": f"The ETag of the {of} that the change is meant for.",
        "schema": {"type": "string"},
    }


def expected_version(request: Request) -> int | None:
    """The version in If-Match; None when any will do. A weak tag never matches (RFC 9110, 13.1.1)."""
    given = request.headers.get(_IF_MATCH)
    if given is None or given.strip() == "*":
        return None
    found = _ETAG.fullmatch(given.strip())
    if found is None:
        raise ProblemError("invalid_if_match")
    return int(found[1])


def show_version(response: Response, version: int) -> None:
    response.headers["ETag"] = f'"{version}"'
