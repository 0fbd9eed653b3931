"""What each kind of mail says. Subjects are ours alone: nothing that anybody typed gets into a header."""

from collections.abc import Callable

from services.orders.fulfilment import DIGITAL, PHYSICAL
from services.orders.mails.layout import Letter
from services.orders.mails.mail import DOWNLOADS, RECEIPT, REFUND, RETURNED, SHIPPED, Mail
from services.orders.rules import order_number


def letter_of(mail: Mail, *, shop_url: str, grant_days: int) -> Letter:
    """Raises KeyError for a kind that nobody has words for."""
    kind = mail.kind.partition(":")[0]
    if kind == RECEIPT:
        return _receipt(mail, shop_url, grant_days)
    if kind == DOWNLOADS:
        return _downloads(mail, shop_url, grant_days)
    return _LETTERS[kind](mail, shop_url)


def _receipt(mail: Mail, shop_url: str, grant_days: int) -> Letter:
    """The one mail of a completed order: what was paid, what can be had now, and what is still to come."""
    pictures = _lines(mail, of_type=DIGITAL.product_type)
    return Letter(
        subject=f"Your AI Shop order {_number(mail)}",
        title="Thank you for your order",
        paragraphs=(
            _what_was_paid(mail),
            *((_yours_alone(grant_days),) if pictures else ()),
            *(("We write again when your parcel is on its way.",) if len(pictures) < len(mail.types) else ()),
        ),
        rows=(*_lines(mail), *_total(mail)),
        link=_to_downloads(mail, shop_url) if pictures else ("See your order", _order_url(mail, shop_url)),
        foot=_foot(mail),
    )


def _what_was_paid(mail: Mail) -> str:
    if 0 < mail.discount_cents == mail.total_cents:
        return "Your promotion code has paid for what is listed here."
    return "We have received your payment for what is listed here."


def _total(mail: Mail) -> tuple[tuple[str, str], ...]:
    total = ("Total", _amount(mail, mail.total_cents, mail.total_points))
    if not mail.discount_cents:
        return (total,)
    discount = ("Discount", _amount(mail, mail.discount_cents, 0))
    return (total, discount, ("Paid", _amount(mail, mail.total_cents - mail.discount_cents, 0)))


def _downloads(mail: Mail, shop_url: str, grant_days: int) -> Letter:
    return Letter(
        subject=f"Ready to download: AI Shop order {_number(mail)}",
        title="Your pictures are ready",
        paragraphs=(_yours_alone(grant_days),),
        rows=_lines(mail, of_type=DIGITAL.product_type),
        link=_to_downloads(mail, shop_url),
        foot=_foot(mail),
    )


def _shipped(mail: Mail, shop_url: str) -> Letter:
    tracking = mail.tracking_info or {}
    url = tracking.get("url")
    sent_with = (("Carrier", tracking.get("carrier", "")), ("Number", tracking.get("number", "")))
    return Letter(
        subject=f"On its way: AI Shop order {_number(mail)}",
        title="Your order is on its way",
        paragraphs=("We have sent:",),
        rows=(*_lines(mail, of_type=PHYSICAL.product_type), *(pair for pair in sent_with if pair[1])),
        link=("Follow the parcel", url) if url else ("See your order", _order_url(mail, shop_url)),
        foot=_foot(mail),
    )


def _refund(mail: Mail, shop_url: str) -> Letter:
    back_to = "your points" if mail.refunded_points else "the card you paid with, within a few days"
    why = (
        ("Your payment came when the order had already ended and its last piece was sold.",)
        if mail.came_too_late
        else ()
    )
    given_back = tuple(
        (title, f"{quantity} ×")
        for title, quantity in zip(mail.titles, mail.refunded_quantities, strict=True)
        if quantity
    )
    amount = _amount(mail, mail.refunded_cents, mail.refunded_points)
    return Letter(
        subject=f"Refund for AI Shop order {_number(mail)}",
        title="You get a refund",
        paragraphs=(*why, f"{amount} go back to {back_to}."),
        rows=(*given_back, ("Refund", amount)),
        link=("See your order", _order_url(mail, shop_url)),
        foot=_foot(mail),
    )


def _returned(mail: Mail, shop_url: str) -> Letter:
    amount = _amount(mail, mail.refunded_cents, mail.refunded_points)
    return Letter(
        subject=f"Your refund did not arrive: AI Shop order {_number(mail)}",
        title="Your refund came back to us",
        paragraphs=(
            f"Your bank sent {amount} back that we had refunded to you, as happens when a card was closed.",
            "It is still yours: we are looking for another way and will write to you. Until then your order"
            " counts as paid, with everything that you bought.",
        ),
        rows=(("Refund", amount),),
        link=("See your order", _order_url(mail, shop_url)),
        foot=_foot(mail),
    )


_LETTERS: dict[str, Callable[[Mail, str], Letter]] = {
    SHIPPED: _shipped,
    REFUND: _refund,
    RETURNED: _returned,
}


def _lines(mail: Mail, *, of_type: str | None = None) -> tuple[tuple[str, str], ...]:
    return tuple(
        (title, f"{quantity} ×")
        for title, quantity, product_type in zip(mail.titles, mail.quantities, mail.types, strict=True)
        if of_type in (None, product_type)
    )


def _yours_alone(grant_days: int) -> str:
    return (
        f"For {grant_days} days the pictures are yours to download, nobody else's: sign in with your account."
    )


def _to_downloads(mail: Mail, shop_url: str) -> tuple[str, str]:
    return "Download your pictures", f"{_order_url(mail, shop_url)}#downloads"


def _amount(mail: Mail, cents: int, points: int) -> str:
    if points:
        return f"{points} points"
    units, rest = divmod(cents, 100)
    return f"{units}.{rest:02d} {mail.currency.upper()}"


def _number(mail: Mail) -> str:
    return order_number(mail.order_id)


def _order_url(mail: Mail, shop_url: str) -> str:
    return f"{shop_url}/orders/{mail.order_id}"


def _foot(mail: Mail) -> str:
    return f"Order {mail.order_id}"
