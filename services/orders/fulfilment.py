"""How each type of product is fulfilled: the registry that both pivots put their SQL together from.

A pivot is one statement (commands/settling.py). It brings the CTEs `lines (product_id, type)` and `done (id,
user_id, dispute)`, the completed order; each type adds what its lines leave behind. What a type does
not do there, somebody does by hand: the order is fulfilled when nothing of that is left.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Terms:
    """What a download grant allows."""

    grant_days: int
    downloads: int
    reissues: int
    # How long a link may be used once it was given out.
    link_seconds: int


@dataclass(frozen=True, slots=True)
class Fulfilment:
    """One type of product."""

    product_type: str
    # Nothing is left to do for its lines after the pivot.
    is_immediate: bool
    # CTEs of the pivot.
    in_pivot: str = ""


DIGITAL = Fulfilment(
    "digital",
    is_immediate=True,
    # A dispute may be known before the payment is.
    in_pivot="""
    granted AS (
        INSERT INTO download_grants
            (order_id, product_id, user_id, status, downloads_left, reissues_left, expires_at)
        SELECT done.id, lines.product_id, done.user_id,
            CASE done.dispute WHEN 'open' THEN 'suspended' ELSE 'active' END,
            %(downloads)s, %(reissues)s, now() + %(grant_days)s * interval '1 day'
        FROM done, lines WHERE lines.type = 'digital')""",
)
# Sent by an operator: commands/shipping.py.
PHYSICAL = Fulfilment("physical", is_immediate=False)

BY_TYPE = {each.product_type: each for each in (DIGITAL, PHYSICAL)}

LINES = """
    lines AS MATERIALIZED (
        SELECT i.product_id, p.type FROM order_items i JOIN products p ON p.id = i.product_id
        WHERE i.order_id = %(order_id)s)"""
_IMMEDIATE = ", ".join(f"'{each.product_type}'" for each in BY_TYPE.values() if each.is_immediate)
# When the order is fulfilled: now, unless something is left to do.
FULFILLED_AT = f"(SELECT CASE WHEN bool_and(type IN ({_IMMEDIATE})) THEN now() END FROM lines)"
IN_PIVOT = ",".join(each.in_pivot for each in BY_TYPE.values() if each.in_pivot)


def parameters(terms: Terms) -> dict[str, int]:
    """What IN_PIVOT takes of the terms."""
    return {"downloads": terms.downloads, "reissues": terms.reissues, "grant_days": terms.grant_days}
