"""Stripe's lists: newest first, `limit`, `starting_after`, `ending_before`, `created[gte]` and the like."""

from deploy.local.stripe_sandbox.errors import invalid, no_such
from deploy.local.stripe_sandbox.params import Params
from deploy.local.stripe_sandbox.store import Condition, Object, Page, Store

_MAX_TIME = 1 << 40
_COMPARISONS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def read_page(store: Store, kind: str, params: Params, conditions: list[Condition]) -> Page:
    limit = params.integer("limit", least=1, most=100)
    after, before = params.text("starting_after"), params.text("ending_before")
    if after and before:
        message = "You cannot parameterize both starting_after and ending_before."
        raise invalid(message, param="starting_after")
    return Page(
        limit=10 if limit is None else limit,
        after=_cursor(store, kind, after, "starting_after"),
        before=_cursor(store, kind, before, "ending_before"),
        conditions=[*conditions, *_created(params)],
    )


def answer(store: Store, kind: str, page: Page, *, url: str) -> Object:
    data, has_more = store.page(kind, page)
    return {"object": "list", "data": data, "has_more": has_more, "url": url}


def _cursor(store: Store, kind: str, object_id: str | None, param: str) -> int | None:
    if object_id is None:
        return None
    position = store.position(kind, object_id)
    if position is None:
        raise no_such(kind, object_id, param=param, status=400)
    return position


def _created(params: Params) -> list[Condition]:
    if "created" not in params:
        return []
    if params.is_text("created"):
        return [("created = ?", params.integer("created", least=0, most=_MAX_TIME))]
    level = params.mapping("created")
    assert level is not None
    bounds = {name: level.integer(name, least=0, most=_MAX_TIME) for name in _COMPARISONS}
    return [(f"created {_COMPARISONS[name]} ?", bound) for name, bound in bounds.items() if bound is not None]
