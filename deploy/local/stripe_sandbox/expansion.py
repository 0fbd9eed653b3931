"""`expand[]=payment_intent.latest_charge`: ids replaced by their objects."""

from collections.abc import Sequence

from deploy.local.stripe_sandbox.errors import Refusal
from deploy.local.stripe_sandbox.store import Object, Page, Store

# Fields that hold ids of objects that the sandbox keeps.
_FIELDS = {
    "balance_transaction",
    "charge",
    "customer",
    "failure_balance_transaction",
    "invoice",
    "latest_charge",
    "latest_invoice",
    "payment_intent",
    "subscription",
    "test_clock",
}


def expand(store: Store, body: Object, paths: Sequence[str]) -> Object:
    """A copy of the answer with every path expanded; in a list, paths start with `data`."""
    for path in paths:
        body = _expanded(store, body, path.split("."), path)
    return body


def _expanded(store: Store, body: Object, parts: list[str], path: str) -> Object:
    first, *rest = parts
    if first == "data" and body.get("object") == "list" and rest:
        return body | {"data": [_expanded(store, item, rest, path) for item in body["data"]]}
    if first == "line_items" and body.get("object") == "checkout.session":
        return body | {"line_items": line_items(store, body["id"])}
    if first == "refunds" and body.get("object") == "charge":
        return body | {"refunds": _refunds(store, body)}
    if rest and isinstance(body.get(first), dict):
        # A part of the object, or a field that an earlier path has expanded.
        return body | {first: _expanded(store, body[first], rest, path)}
    if first not in _FIELDS or first not in body:
        raise Refusal(400, f"This property cannot be expanded ({path}).", param="expand")
    # What is deleted stays the id that it was.
    value = (store.find_any(body[first]) or body[first]) if isinstance(body[first], str) else body[first]
    if isinstance(value, dict) and rest:
        value = _expanded(store, value, rest, path)
    return body | {first: value}


def _refunds(store: Store, charge: Object) -> Object:
    """The newest ten, as Stripe includes them."""
    names = {"payment_intent": charge["payment_intent"], "charge": charge["id"]}
    page = Page(
        limit=10,
        conditions=[(f"json_extract(body, '$.{name}') = ?", value) for name, value in names.items()],
    )
    data, has_more = store.page("refund", page)
    url = f"/v1/charges/{charge['id']}/refunds"
    return {"object": "list", "data": data, "has_more": has_more, "url": url}


def line_items(store: Store, session_id: str) -> Object:
    found = store.find("checkout.session", session_id)
    assert found is not None
    return {
        "object": "list",
        "data": found.hidden["line_items"],
        "has_more": False,
        "url": f"/v1/checkout/sessions/{session_id}/line_items",
    }
