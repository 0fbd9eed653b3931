"""Checkout Sessions in payment mode (https://docs.stripe.com/api/checkout/sessions/object)."""

from deploy.local.stripe_sandbox import errors
from deploy.local.stripe_sandbox.objects import Fields, new_id, nulls

_MIN_SECONDS = 30 * 60
_MAX_SECONDS = 24 * 3600
_MIN_AMOUNT = 50
_MAX_AMOUNT = 99_999_999
_MAX_METADATA_KEYS = 50
_MAX_METADATA_VALUE = 500
_KNOWN = {
    *("mode", "line_items", "success_url", "cancel_url", "client_reference_id", "metadata", "customer_email"),
    *(
        "payment_intent_data",
        "expires_at",
        "payment_method_types",
        "currency",
        "locale",
        "submit_type",
        "expand",
    ),
}
_NULLS = nulls(
    "adaptive_pricing after_expiration allow_promotion_codes allowed_payment_method_types"
    " billing_address_collection branding_settings client_secret collected_information consent"
    " consent_collection currency_conversion customer customer_account customer_details discounts"
    " excluded_payment_method_types integration_identifier invoice invoice_creation locale managed_payments"
    " name_collection optional_items origin_context payment_intent payment_link"
    " payment_method_configuration_details payment_method_options permissions phone_number_collection"
    " presentment_details recovered_from redirect_on_completion return_url saved_payment_method_options"
    " setup_intent shipping_address_collection shipping_cost submit_type subscription tax_id_collection"
    " wallet_options"
)


def build(form: Fields, *, now: int, public_url: str) -> Fields:
    """A new open session out of a request's fields; StripeError for what Stripe would refuse."""
    for name in form:
        if name not in _KNOWN:
            raise errors.unknown_parameter(name)
    if form.get("mode") != "payment":
        raise errors.invalid("mode", "The sandbox knows mode=payment only.")
    if "success_url" not in form:
        raise errors.missing("success_url")
    lines = [_line(item, place) for place, item in enumerate(form.get("line_items") or [])]
    if not lines:
        raise errors.missing("line_items")
    total = sum(line["amount_total"] for line in lines)
    if not _MIN_AMOUNT <= total <= _MAX_AMOUNT:
        raise errors.invalid("line_items", f"The total must be {_MIN_AMOUNT} to {_MAX_AMOUNT}, not {total}.")
    id = new_id("cs_test")
    return _NULLS | {
        "id": id,
        "object": "checkout.session",
        "amount_subtotal": total,
        "amount_total": total,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "cancel_url": form.get("cancel_url"),
        "client_reference_id": form.get("client_reference_id"),
        "created": now,
        "currency": lines[0]["currency"],
        "custom_fields": [],
        "custom_text": nulls("after_submit shipping_address submit terms_of_service_acceptance"),
        "customer_creation": "if_required",
        "customer_email": form.get("customer_email"),
        "expires_at": _expires_at(form, now),
        "line_items": {
            "object": "list",
            "data": lines,
            "has_more": False,
            "url": f"/v1/checkout/sessions/{id}/line_items",
        },
        "livemode": False,
        "metadata": metadata(form.get("metadata"), "metadata"),
        "mode": "payment",
        "payment_intent_data": metadata(
            (form.get("payment_intent_data") or {}).get("metadata"), "payment_intent_data[metadata]"
        ),
        "payment_method_collection": "if_required",
        "payment_method_types": ["card"],
        "payment_status": "unpaid",
        "shipping_options": [],
        "status": "open",
        "success_url": form["success_url"],
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": "hosted_page",
        "url": f"{public_url}/c/pay/{id}",
    }


def shown(session: Fields, *, expand: bool = False) -> Fields:
    """The session as the API answers it: line items only when they were asked for."""
    hidden = {"payment_intent_data"} | (set() if expand else {"line_items"})
    return {name: value for name, value in session.items() if name not in hidden}


def metadata(given: object, param: str) -> dict[str, str]:
    """At most 50 keys with values of 500 characters (https://docs.stripe.com/api/metadata)."""
    if given is None or given == "":
        return {}
    if not isinstance(given, dict) or len(given) > _MAX_METADATA_KEYS:
        raise errors.invalid(param, f"Metadata is an object of at most {_MAX_METADATA_KEYS} keys.")
    for name, value in given.items():
        if not isinstance(value, str) or len(value) > _MAX_METADATA_VALUE:
            raise errors.invalid(f"{param}[{name}]", f"A value holds {_MAX_METADATA_VALUE} characters.")
    return given


def _expires_at(form: Fields, now: int) -> int:
    expires_at = _whole(form.get("expires_at", str(now + _MAX_SECONDS)), "expires_at")
    # Stripe is lenient by the seconds that a request takes.
    if not now + _MIN_SECONDS - 5 <= expires_at <= now + _MAX_SECONDS + 5:
        raise errors.invalid(
            "expires_at", "The `expires_at` timestamp must be between 30 minutes and 24 hours from now."
        )
    return expires_at


def _line(item: Fields, place: int) -> Fields:
    at = f"line_items[{place}]"
    price = item.get("price_data") or {}
    name = (price.get("product_data") or {}).get("name")
    if not name:
        raise errors.missing(f"{at}[price_data][product_data][name]")
    if not price.get("currency"):
        raise errors.missing(f"{at}[price_data][currency]")
    unit = _whole(price.get("unit_amount", ""), f"{at}[price_data][unit_amount]")
    quantity = _whole(item.get("quantity", "1"), f"{at}[quantity]")
    if quantity < 1:
        raise errors.invalid(f"{at}[quantity]", "This value must be greater than or equal to 1.")
    return {
        "id": new_id("li"),
        "object": "item",
        "amount_discount": 0,
        "amount_subtotal": unit * quantity,
        "amount_tax": 0,
        "amount_total": unit * quantity,
        "currency": price["currency"],
        "description": name,
        "quantity": quantity,
    }


def _whole(value: object, param: str) -> int:
    if not str(value).isdigit():
        raise errors.invalid(param, f"Invalid integer: {value}")
    return int(str(value))
