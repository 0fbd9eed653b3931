"""The parameters of POST /v1/checkout/sessions: read, checked, and what they amount to."""

from deploy.local.stripe_sandbox.errors import invalid, no_such
from deploy.local.stripe_sandbox.objects.checkout_session import Wanted
from deploy.local.stripe_sandbox.objects.line_item import Line
from deploy.local.stripe_sandbox.params import Params

_MAX_AMOUNT = 99_999_999
_MAX_LINES = 100
_SHORTEST_SECONDS, _LONGEST_SECONDS = 30 * 60, 24 * 3600
# Stripe's minimum differs by currency; 50 is that of eur and usd.
_LEAST_TOTAL = 50


def read_session(params: Params, *, now: int) -> tuple[Wanted, list[Line], dict[str, object]]:
    """The session, its lines, and what its payment intent will be made of."""
    if params.choice("mode", ("payment", "setup", "subscription")) != "payment":
        # Stripe's default is payment too when there are prices; the shop always says it.
        raise (
            params.missing("mode")
            if "mode" not in params
            else invalid("The sandbox knows the mode payment only", param="mode")
        )
    lines = [_line(level) for level in params.items("line_items", most=_MAX_LINES)]
    if not lines:
        raise params.missing("line_items")
    success_url = params.url("success_url")
    if success_url is None:
        raise params.missing("success_url")
    wanted = Wanted(
        amount_total=_total(lines),
        currency=lines[0].currency,
        success_url=success_url,
        cancel_url=params.url("cancel_url"),
        client_reference_id=params.text("client_reference_id", longest=200),
        customer_email=params.email("customer_email"),
        metadata=params.metadata(),
        expires_at=_expiry(params, now),
    )
    return wanted, lines, _intent_data(params)


def _intent_data(params: Params) -> dict[str, object]:
    level = params.mapping("payment_intent_data")
    if level is None:
        return {"metadata": {}, "description": None}
    return {"metadata": level.metadata(), "description": level.text("description", longest=1_000)}


def _expiry(params: Params, now: int) -> int:
    expires_at = params.integer("expires_at", least=0, most=1 << 40)
    if expires_at is None:
        return now + _LONGEST_SECONDS
    if expires_at < now + _SHORTEST_SECONDS:
        message = "The `expires_at` timestamp must be at least 30 minutes from Checkout Session creation."
        raise invalid(message, param="expires_at")
    if expires_at > now + _LONGEST_SECONDS:
        message = "The `expires_at` timestamp must be less than 24 hours from Checkout Session creation."
        raise invalid(message, param="expires_at")
    return expires_at


def _line(params: Params) -> Line:
    price = params.text("price")
    if price is not None:
        raise no_such("price", price, param=params.name("price"), status=400)
    quantity = params.integer("quantity", least=1, most=999_999)
    if quantity is None:
        raise params.missing("quantity")
    data = params.mapping("price_data")
    if data is None:
        raise params.missing("price_data")
    unit_amount = data.integer("unit_amount", least=0, most=_MAX_AMOUNT)
    if unit_amount is None:
        raise data.missing("unit_amount")
    return Line(
        name=_product_name(data), currency=_currency(data), unit_amount=unit_amount, quantity=quantity
    )


def _currency(params: Params) -> str:
    currency = params.text("currency")
    if currency is None:
        raise params.missing("currency")
    if not (len(currency) == 3 and currency.isascii() and currency.isalpha()):
        raise invalid(f"Invalid currency: {currency}", param=params.name("currency"))
    return currency.lower()


def _product_name(params: Params) -> str:
    product = params.mapping("product_data")
    if product is None:
        raise params.missing("product_data")
    name = product.text("name", longest=250)
    if name is None:
        raise product.missing("name")
    # Taken as Stripe takes them; the sandbox keeps no products.
    product.text("description")
    product.metadata()
    product.texts("images", most=8)
    return name


def _total(lines: list[Line]) -> int:
    if len({line.currency for line in lines}) > 1:
        raise invalid("All prices on a Checkout Session must have the same currency.", param="line_items")
    total = sum(line.unit_amount * line.quantity for line in lines)
    if total < _LEAST_TOTAL:
        message = f"The Checkout Session's total amount must add up to at least {_LEAST_TOTAL}."
        raise invalid(message, param="line_items", code="amount_too_small")
    if total > _MAX_AMOUNT:
        message = f"The Checkout Session's total amount must add up to at most {_MAX_AMOUNT}."
        raise invalid(message, param="line_items", code="amount_too_large")
    return total
