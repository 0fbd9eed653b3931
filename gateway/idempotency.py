"""Idempotency keys at the border: given or minted, noted for every answer, and the hash of the body."""

import hashlib
from uuid import uuid4

from starlette.requests import Request

from gateway.problems import KEY_IN_SCOPE
from services.chassis.idempotency_key import MAX_KEY_LENGTH, check_key

HEADER = "Idempotency-Key"
PARAMETER = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "A request repeated with the same key and body takes effect once. Chosen when absent.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_LENGTH},
}


def key_of(request: Request) -> str:
    """The client's key, or a new one; every answer to this request bears it from here on."""
    given = request.headers.get(HEADER)
    key = str(uuid4()) if given is None else check_key(given)
    request.scope[KEY_IN_SCOPE] = key
    return key


async def body_hash(request: Request) -> bytes:
    """SHA-256 of the body as it was sent."""
    return hashlib.sha256(await request.body()).digest()
