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
    """The session, its lines, and what its payment intent or subscription will be made of."""
    mode = _mode(params)
    lines = [_line(level) for level in params.items("line_items", most=_MAX_LINES)]
    if not lines:
        raise params.missing("line_items")
    _check_recurring(lines, mode)
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
        mode=mode,
        customer=params.text("customer"),
        allow_promotion_codes=params.boolean("allow_promotion_codes"),
    )
    if wanted.customer and wanted.customer_email:
        message = "You may only specify one of these parameters: customer, customer_email."
        raise invalid(message, param="customer")
    return wanted, lines, _made_of(params, mode)


def _mode(params: Params) -> str:
    mode = params.choice("mode", ("payment", "setup", "subscription"))
    if mode is None:
        # Stripe's default is payment when there are prices; the shop always says it.
        raise params.missing("mode")
    if mode == "setup":
        raise invalid("The sandbox knows the modes payment and subscription", param="mode")
    return mode


def _check_recurring(lines: list[Line], mode: str) -> None:
    recurring = [line for line in lines if line.recurring]
    if mode == "payment" and recurring:
        message = "You specified `payment` mode but passed a recurring price."
        raise invalid(message, param="line_items")
    if mode == "subscription" and (len(lines) != 1 or not recurring):
        # Stripe takes several lines, and some that are paid once; the shop sells one plan.
        message = "The sandbox sells a subscription of exactly one recurring price."
        raise invalid(message, param="line_items")


def _made_of(params: Params, mode: str) -> dict[str, object]:
    own, other = "payment_intent_data", "subscription_data"
    if mode == "subscription":
        own, other = other, own
    if other in params:
        raise invalid(f"You can not pass `{other}` in `{mode}` mode.", param=other)
    level = params.mapping(own)
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
        name=_product_name(data),
        currency=_currency(data),
        unit_amount=unit_amount,
        quantity=quantity,
        recurring=_recurring(data),
    )


def _recurring(params: Params) -> dict[str, object] | None:
    level = params.mapping("recurring")
    if level is None:
        return None
    interval = level.choice("interval", ("day", "week", "month", "year"))
    if interval is None:
        raise level.missing("interval")
    return {"interval": interval, "interval_count": level.integer("interval_count", least=1, most=36) or 1}


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
