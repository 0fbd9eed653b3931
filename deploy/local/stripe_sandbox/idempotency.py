"""Idempotency keys as Stripe keeps them (docs.stripe.com/api/idempotent_requests)."""

import hashlib
import json

from deploy.local.stripe_sandbox.errors import Answer, Refusal
from deploy.local.stripe_sandbox.forms import Tree
from deploy.local.stripe_sandbox.store import Store

KEPT_SECONDS = 24 * 3600
_LONGEST = 255


def fingerprint(method: str, path: str, tree: Tree) -> str:
    """Equal for calls to one endpoint with the same parameters, however they were escaped or ordered."""
    digest = hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
    return f"{method} {path} {digest}"


def check(key: str) -> None:
    if not 1 <= len(key) <= _LONGEST:
        raise Refusal(400, f"Idempotency keys have 1 to {_LONGEST} characters.", kind="idempotency_error")


def replay(store: Store, key: str, *, call: str, now: int) -> Answer | None:
    """The kept answer; Refusal when the key belongs to another call."""
    row = store.execute(
        "SELECT call, status, body FROM idempotency_keys WHERE key = ? AND created > ?",
        *(key, now - KEPT_SECONDS),
    ).fetchone()
    if row is None:
        return None
    if row[0] != call:
        raise Refusal(
            400,
            "Keys for idempotent requests can only be used with the same endpoint and parameters they were "
            f"first used with. Try using a key other than '{key}' if you meant to execute a different "
            "request.",
            kind="idempotency_error",
        )
    return Answer(row[1], json.loads(row[2]), replayed=True)


def keep(store: Store, key: str, *, call: str, answer: Answer, now: int) -> None:
    """Replaces a key of that name that is over its day."""
    store.execute(
        "INSERT OR REPLACE INTO idempotency_keys VALUES (?, ?, ?, ?, ?)",
        *(key, call, answer.status, json.dumps(answer.body), now),
    )


def forget_all(store: Store) -> int:
    return store.execute("DELETE FROM idempotency_keys").rowcount
