"""Every stable code that the REST API answers with: status, meaning, and what a client does about it.

The one table behind the answers (problems.py), the OpenAPI document and docs/errors.md. Services name their
own reasons (UPPER_SNAKE); the code is the reason in lower snake.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One code. `retry_after_seconds` goes out as Retry-After."""

    status: int
    title: str
    advice: str
    retry_after_seconds: int | None = None


_SAME_KEY = (
    "Wait for Retry-After, then send the same request with the same Idempotency-Key: it takes effect once."
)

KINDS: dict[str, Kind] = {
    # Who is asking
    "missing_token": Kind(
        401, "A bearer token is required", "Send Authorization: Bearer with the customer's access token."
    ),
    "invalid_token": Kind(
        401, "The token is not valid", "Sign in again; check issuer, audience and signing secret."
    ),
    "token_expired": Kind(401, "The token has expired", "Refresh the session and repeat the request."),
    "keys_unavailable": Kind(
        503,
        "The token cannot be checked right now",
        "The identity provider does not answer: wait for Retry-After, then repeat with the same token.",
        retry_after_seconds=2,
    ),
    "operator_only": Kind(
        403,
        "This is for operators",
        "The shop makes somebody an operator by `app_metadata.role`; the token must be newer than that.",
    ),
    "email_not_verified": Kind(
        403, "The e-mail address is not verified", "Open the link of the provider's mail, then sign in again."
    ),
    "second_factor_required": Kind(
        403, "A second factor is required", "Sign in with the second factor, and send that session's token."
    ),
    # What is asked
    "route_not_found": Kind(404, "There is no such route", "Check the path against /openapi.json."),
    "method_not_allowed": Kind(405, "This route has no such method", "Use a method of the Allow header."),
    "malformed_json": Kind(400, "The body is not valid JSON", "Send one JSON object in UTF-8."),
    "body_too_large": Kind(
        413, "The body is too large", "Bodies hold 64 KiB at most, webhooks 512 KiB: send less."
    ),
    "malformed_request": Kind(400, "This is not HTTP", "Speak HTTP/1.1."),
    "head_too_large": Kind(
        431,
        "The head of the request is too large",
        "Request line and headers hold 32 KiB at most: send fewer cookies, or a smaller token.",
    ),
    "request_timeout": Kind(
        408,
        "The request took too long to arrive",
        "A head has 10 s, a body 10 s, a webhook's 3 s: send it again over a better line. Nothing was done.",
    ),
    "too_many_connections": Kind(
        429,
        "Too many connections from one address",
        "Use one connection for many requests, one after the other, and wait for Retry-After.",
        retry_after_seconds=1,
    ),
    "too_many_at_once": Kind(
        429,
        "Too many requests at once",
        "100 requests of one user may be under way, 8 event streams and 4 downloads: wait for one to end.",
        retry_after_seconds=1,
    ),
    "unsupported_media_type": Kind(
        415, "The body is not declared as JSON", "Send Content-Type: application/json."
    ),
    "invalid_request": Kind(
        422,
        "The request is not valid",
        "Correct the fields that `errors` names: each has `field` and `message`.",
    ),
    "invalid_limit": Kind(422, "The page size is out of range", "limit is 1 to 100."),
    "invalid_cursor": Kind(
        422, "The cursor is not one of ours", "Use nextCursor as it came, or start again."
    ),
    "invalid_if_match": Kind(
        422,
        "If-Match does not name a version",
        'Send the ETag of the last answer, such as "7", or leave it out.',
    ),
    "invalid_idempotency_key": Kind(
        422, "The Idempotency-Key is not usable", "1 to 255 printable ASCII characters, a UUID for instance."
    ),
    "idempotency_key_reused": Kind(
        422,
        "The Idempotency-Key belongs to another request",
        "A key stands for one body on one route: take a new key for a new intent.",
    ),
    "request_in_flight": Kind(
        409,
        "The first request with this key is still running",
        "Wait for Retry-After, then repeat with the same key: the answer is the first one's.",
        retry_after_seconds=1,
    ),
    # Catalogue and packages
    "product_not_found": Kind(404, "There is no such product", "Read GET /api/products again."),
    "product_inactive": Kind(409, "The product is no longer sold", "Take `productId` out of the cart."),
    "not_for_points": Kind(409, "The product is sold for money only", "Pay with paymentMethod stripe."),
    "package_not_found": Kind(404, "There is no such points package", "Read GET /api/points/packages again."),
    "price_changed": Kind(
        409,
        "The package has another price now",
        "Show `points` and `priceCents`, which are today's, and ask the customer again.",
    ),
    # Cart
    "cart_changed": Kind(
        412, "The cart changed since it was read", "Read the cart again (`version` is today's) and repeat."
    ),
    "cart_empty": Kind(422, "The cart is empty", "Put something into the cart, or send items."),
    "invalid_quantity": Kind(422, "The quantity is out of range", "1 to 1000 pieces of one product."),
    "too_many_lines": Kind(422, "Too many different products", "100 different products at once at most."),
    # Orders
    "insufficient_points": Kind(
        402,
        "Not enough points",
        "`needed` and `available` tell what is missing: buy points or pay by card. `orderId` has failed.",
    ),
    "out_of_stock": Kind(
        409,
        "Fewer pieces are left than wanted",
        "`productId` has `available` pieces left: lower the quantity. `orderId` has failed.",
    ),
    "order_too_large": Kind(422, "The order's total is too large", "Split the order."),
    "checkout_in_progress": Kind(
        409,
        "This cart is already being bought",
        "Finish or cancel the order `orderId`, or change the cart, before another checkout.",
    ),
    "too_many_open_orders": Kind(
        409,
        "Too many orders wait for their payment",
        "`openOrders` lists them: pay at `url`, or POST to `cancel`. `limit` at most.",
    ),
    "too_many_pieces": Kind(
        409,
        "Too many pieces of one product wait for their payment",
        "Of `productId` `reserved` are kept for `openOrders` (pay at `url`, or POST to `cancel`), `requested`"
        " more were wanted; `limit` at most.",
    ),
    "too_many_failed_checkouts": Kind(
        409,
        "Too many checkouts failed",
        "For want of points or stock, `limit` within a day: look at points and stock before; a day later more"
        " may fail.",
    ),
    "too_many_open_checkouts": Kind(
        409,
        "Too many payment pages are open",
        "`openCheckouts` lists them: pay at `url`, or wait until one ends by itself (`expiresAt`).",
    ),
    "order_not_found": Kind(404, "There is no such order", "Orders of other customers are not found either."),
    "order_not_cancellable": Kind(
        409, "The order can no longer be cancelled", "`currentStatus` tells what became of it."
    ),
    # Downloads
    "download_not_found": Kind(
        404,
        "There is no such download",
        "Read the order's downloads; links of others are not found.",
    ),
    "download_revoked": Kind(403, "The picture was given back", "What was paid for it went back."),
    "download_suspended": Kind(
        403, "The payment is disputed", "The bank decides; if the shop is right, the download opens again."
    ),
    "download_expired": Kind(
        410,
        "The link is no longer valid",
        "Read GET /api/orders/{orderId}/downloads for a fresh `url`; without one, reissue the download.",
    ),
    "downloads_used_up": Kind(
        403,
        "The picture was downloaded as often as allowed",
        "Reissue it if `reissuesLeft` is not 0.",
    ),
    "reissues_used_up": Kind(409, "The download was reissued as often as allowed", "Contact the shop."),
    "file_unavailable": Kind(
        503,
        "The file cannot be read right now",
        "Nothing was counted: wait for Retry-After, then repeat.",
        retry_after_seconds=2,
    ),
    # Payments
    "checkout_not_found": Kind(404, "There is no such checkout", "Checkouts of others are not found either."),
    "checkout_refused": Kind(
        409, "Stripe refused to open the checkout", "Nothing was charged: contact the shop."
    ),
    # Subscriptions
    "plan_not_found": Kind(404, "There is no such plan", "Read GET /api/plans again."),
    "subscription_exists": Kind(
        409,
        "The customer has a subscription of this plan",
        "`subscriptionId` is alive: use it, or wait until it has ended.",
    ),
    "subscription_not_found": Kind(
        404, "There is no such subscription", "Subscriptions of others are not found either."
    ),
    "subscription_elsewhere": Kind(
        409,
        "The subscription is billed by another account of Stripe",
        "The shop has moved its payments: only the shop can end it there, contact it.",
    ),
    "subscription_unconfirmed": Kind(
        503,
        "Stripe has not confirmed the cancellation",
        "Wait for Retry-After, then cancel again: it takes effect once.",
        retry_after_seconds=2,
    ),
    # For operators
    "price_below_minimum": Kind(
        422, "Stripe charges no less", "`minimum` is the least in the shop's currency: raise the price."
    ),
    "product_changed": Kind(
        412,
        "The product changed since it was read",
        "Read the product again (`version` is today's) and repeat.",
    ),
    "stock_reserved": Kind(
        409,
        "Fewer pieces would be left than are reserved",
        "`reserved` of `stock` pieces belong to open orders: correct by less, or wait for their end.",
    ),
    "stock_unlimited": Kind(
        409, "The product's stock is not counted", "Unlimited stays unlimited: make another product."
    ),
    "nothing_to_ship": Kind(
        409, "Nothing of the order waits to be sent", "It was sent, given back, has no goods, or is not paid."
    ),
    "stripe_event_not_found": Kind(
        404, "No such event was received", "If Stripe has it, a reconciliation brings it here."
    ),
    "stripe_event_busy": Kind(
        409, "The event is being handled right now", "Look what becomes of it, and replay it then."
    ),
    "stripe_event_settled": Kind(
        409,
        "The event was applied, or is nothing of this shop",
        "See `currentStatus`: nothing is left to do.",
    ),
    "quarantine_not_found": Kind(
        404, "No such payment is in quarantine", "Read GET /api/admin/quarantine again."
    ),
    "quarantine_resolved": Kind(
        409, "The payment was settled the other way", "`currentStatus` tells how; it stays so."
    ),
    "cannot_fulfil": Kind(
        409, "This payment cannot be fulfilled", "`why` tells what is missing: state it, or refund it."
    ),
    "nothing_at_stripe": Kind(
        409,
        "Nothing of it can be refunded at Stripe",
        "`due` was paid by credit or outside of Stripe: fulfil it, settle it outside, or write it off.",
    ),
    "settlement_exceeds_due": Kind(
        409, "More than the customer is due", "`due` is what is left, `amount` was named: name less."
    ),
    "settlement_mismatch": Kind(
        409,
        "The reference was settled with another amount",
        "`booked` counts already, `amount` was named: another transfer has another reference.",
    ),
    "payment_disputed": Kind(
        409,
        "The payment is disputed",
        "The customer's bank decides about the money: wait for the end of the dispute.",
    ),
    "not_refundable": Kind(
        409, "The order cannot be refunded", "Only what was paid is given back; `currentStatus` tells more."
    ),
    "refund_exceeds_order": Kind(
        409,
        "More than is left of the order",
        "`refundable` is what is left, `requested` was asked for: name fewer pieces.",
    ),
    "order_disputed": Kind(
        409,
        "The order's payment is disputed",
        "The customer's bank decides about the money: wait for it; what is not disputed can be refunded.",
    ),
    "nothing_owed": Kind(
        409,
        "The customer is not owed that much",
        "`owed` is owed of this order, `requested` was to be settled: see GET /api/admin/refunds/owed.",
    ),
    "not_in_order": Kind(
        422, "The order has no line of this product", "Read GET /api/admin/orders/{orderId}: its `items`."
    ),
    "saga_not_found": Kind(
        404, "The order has no such saga", "Read GET /api/admin/orders/{orderId}: its `sagas`."
    ),
    "saga_ended": Kind(409, "The saga has ended", "`currentStatus` tells how: there is nothing left to do."),
    "saga_waits": Kind(
        409,
        "The saga waits for the customer",
        "There is nothing to try again at `step`: wait, or compensate it.",
    ),
    "saga_past_pivot": Kind(
        409, "The saga can only go forward", "Past `step` nothing is undone: retry it, or refund its order."
    ),
    "mail_not_found": Kind(404, "The order has no such mail", "Read GET /api/admin/mails: what is not sent."),
    "mail_not_in_doubt": Kind(
        409,
        "The mail is neither in doubt nor refused",
        "`currentStatus` tells how it stands: there is something to decide of those two alone.",
    ),
    "dead_letter_not_found": Kind(
        404, "There is no such dead letter", "Read GET /api/admin/dead-letters: it names service and id."
    ),
    "dead_letter_decided": Kind(
        409,
        "Somebody has decided about this dead letter",
        "It was redelivered or dropped: nothing is left to do.",
    ),
    "dead_letter_rejected": Kind(
        409,
        "The message can still not be handled",
        "`detail` tells why: mend that first, or drop it. Nothing was changed.",
    ),
    "range_too_large": Kind(
        422,
        "The range holds more than can be counted in time",
        "Ask for a shorter range (`from`, `to`), or again when the shop is quieter.",
    ),
    "reconciliation_not_found": Kind(
        404, "There is no such reconciliation", "Start one with POST /api/admin/reconciliations."
    ),
    # Webhooks
    "invalid_signature": Kind(
        400, "Invalid signature", "The webhook was not signed with this shop's secret, or is too old."
    ),
    "invalid_event": Kind(
        400,
        "Invalid payload",
        "It was signed, but is no snapshot event in JSON: set the endpoint's payload style to snapshot.",
    ),
    "wrong_livemode": Kind(
        400, "Wrong mode", "A test event for a live shop, or the other way round: deliver it to its own shop."
    ),
    # The shop itself
    "rate_limited": Kind(
        429,
        "Too many requests in a short time",
        "Wait for Retry-After, then repeat with the same Idempotency-Key: nothing was done.",
    ),
    "busy": Kind(503, "Somebody changes the same thing", _SAME_KEY, retry_after_seconds=1),
    "overloaded": Kind(503, "Too many requests at once", _SAME_KEY, retry_after_seconds=1),
    "service_unavailable": Kind(503, "A part of the shop does not answer", _SAME_KEY, retry_after_seconds=2),
    "outcome_unknown": Kind(
        503,
        "No answer in time: it may or may not have taken effect",
        f"{_SAME_KEY} The key is in the Idempotency-Key header of this answer.",
        retry_after_seconds=2,
    ),
    "not_ready": Kind(
        503,
        "The gateway cannot serve yet",
        "`unavailable` names the services it waits for.",
        retry_after_seconds=1,
    ),
    "internal_error": Kind(
        500, "Something went wrong", "It was logged; repeat with the same Idempotency-Key."
    ),
}

_HEAD = """# Error codes

Every error is `application/problem+json` (RFC 9457): `type`, `title`, `status`, `code` and, where it
helps, `detail` and fields of its own (camelCase; amounts and counts are integers). Program against `code`,
which never changes its meaning; `title` and `detail` are for people. New codes may come: treat an unknown
one by its status.

A `503`, a `429` and a `409 request_in_flight` carry `Retry-After`. Answers of routes that take an
`Idempotency-Key` carry the key in use, also when the gateway chose it.

"""


def as_markdown() -> str:
    """The text of docs/errors.md."""
    rows = [
        f'| <a id="{code}"></a>`{code}` | {kind.status} | {kind.title} | {kind.advice} |'
        for code, kind in KINDS.items()
    ]
    return "\n".join([_HEAD + "| code | status | meaning | what to do |", "|---|---|---|---|", *rows, ""])
