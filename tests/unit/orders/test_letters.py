"""What mails say, and that nothing which anybody typed gets out of its place."""

import email
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import default
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.orders.mails.letters import letter_of
from services.orders.mails.mail import Mail
from services.orders.mails.message import message_of

ORDER = UUID("01920000-0000-7000-8000-0000000000aa")
HOSTILE = '"Sea"\r\nBcc: eve@evil.test\r\n\r\n<script>alert(1)</script> & ünïcode'
HEADERS = {"From", "To", "Subject", "Message-ID", "Date", "MIME-Version", "Content-Type"}


def mail_of(kind: str, **changes: Any) -> Mail:
    values: dict[str, Any] = {
        "order_id": ORDER,
        "kind": kind,
        "attempts": 0,
        "created_at": datetime(2026, 11, 24, 12, 30, tzinfo=UTC),
        "email": b"",
        "currency": "usd",
        "total_cents": 1_205,
        "total_points": 0,
        "titles": ["Harbour", "Print"],
        "quantities": [2, 1],
        "types": ["digital", "physical"],
        "refunded_quantities": [0, 1],
    }
    return Mail(**values | changes)


def sent(mail: Mail, to: str = "ada@example.com") -> EmailMessage:
    letter = letter_of(mail, shop_url="https://shop.test", grant_days=30)
    message = email.message_from_bytes(
        message_of(mail, letter, sender="shop@shop.test", to=to).content, policy=default
    )
    assert isinstance(message, EmailMessage)
    return message


def body(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    return str(part.get_content())


def test_a_receipt_lists_what_was_bought_and_its_total() -> None:
    message = sent(mail_of("receipt"))
    assert set(message.keys()) == HEADERS
    assert message["Message-ID"] == f"<{ORDER}.receipt@shop.test>"
    assert (message["From"], message["To"]) == ("shop@shop.test", "ada@example.com")
    for text in (body(message, "plain"), body(message, "html")):
        assert all(
            word in text for word in ("Harbour", "Print", "12.05 USD", f"https://shop.test/orders/{ORDER}")
        )
    assert "170 points" in body(sent(mail_of("receipt", total_cents=0, total_points=170)), "plain")


def test_a_receipt_is_the_one_mail_of_its_order() -> None:
    """Receipt and download links in one; what is posted has a mail of its own, and it says so."""
    text = body(sent(mail_of("receipt")), "plain")
    assert f"https://shop.test/orders/{ORDER}#downloads" in text
    assert all(words in text for words in ("For 30 days", "when your parcel is on its way", "12.05 USD"))
    assert "parcel" not in body(sent(mail_of("receipt", types=["digital", "digital"])), "plain")
    goods = body(sent(mail_of("receipt", types=["physical", "physical"])), "plain")
    assert "download" not in goods
    assert f"https://shop.test/orders/{ORDER}\n" in goods


def test_the_fulfilment_of_the_version_before_names_what_can_be_downloaded_and_where() -> None:
    message = sent(mail_of("downloads"))
    for text in (body(message, "plain"), body(message, "html")):
        assert "Harbour" in text
        assert "Print" not in text
        assert f"https://shop.test/orders/{ORDER}#downloads" in text
        assert "30 days" in text


def test_a_shipment_names_the_goods_and_how_they_are_followed() -> None:
    tracking = {"carrier": "Post", "number": "P-1", "url": "https://post.test/P-1"}
    text = body(sent(mail_of("shipped", tracking_info=tracking)), "plain")
    assert all(word in text for word in ("Print", "Post", "P-1", "https://post.test/P-1"))
    assert "Harbour" not in text
    assert f"/orders/{ORDER}" in body(sent(mail_of("shipped", tracking_info={"carrier": "Post"})), "plain")


def test_a_refund_says_what_went_back_where_and_why_when_nobody_asked() -> None:
    refund_id = uuid4()
    message = sent(mail_of(f"refund:{refund_id}", refunded_cents=1_000))
    assert message["Message-ID"] == f"<{ORDER}.refund.{refund_id}@shop.test>"
    text = body(message, "plain")
    assert all(word in text for word in ("10.00 USD", "card", "Print"))
    assert "Harbour" not in text
    assert "50 points" in body(sent(mail_of("refund:x", refunded_points=50)), "plain")
    assert "already ended" in body(sent(mail_of("refund:x", refunded_cents=1, came_too_late=True)), "plain")
    assert "already ended" not in text


@pytest.mark.parametrize("kind", ["receipt", "downloads", "shipped", "refund:x"])
def test_hostile_titles_add_no_header_no_part_and_no_markup(kind: str) -> None:
    tracking = {"carrier": HOSTILE, "number": HOSTILE, "url": 'https://x.test/"onclick="evil()'}
    mail = mail_of(kind, titles=[HOSTILE, HOSTILE], tracking_info=tracking, refunded_quantities=[1, 1])
    message = sent(mail)
    assert set(message.keys()) == HEADERS
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert "<script" not in body(message, "html")
    assert 'onclick="' not in body(message, "html")
    assert "ünïcode" in body(message, "plain")
    # In the text no line of its own.
    assert not any(line.startswith(("Bcc:", "<script")) for line in body(message, "plain").splitlines())


@pytest.mark.parametrize(
    "address",
    [
        "",
        "ada",
        "ada@example.com\r\nBcc: eve@evil.test",
        "ada@example.com, eve@evil.test",
        "ada@example.com eve@evil.test",
        "<ada@example.com>",
        '"ada"@example.com',
        "ada@@example.com",
        f"{'a' * 65}@example.com",
        f"ada@{'x' * 256}",
        "ada@example.com\0",
    ],
)
def test_an_address_that_is_not_one_mailbox_gets_nothing(address: str) -> None:
    with pytest.raises(ValueError, match="not one mailbox"):
        sent(mail_of("receipt"), to=address)


def test_an_address_beyond_ascii_stays_as_it_is() -> None:
    assert sent(mail_of("receipt"), to="ädä@exämple.com")["To"] == "ädä@exämple.com"


@pytest.mark.parametrize(
    ("discount", "lines", "says"),
    [
        (205, ["Total  12.05 USD", "Discount  2.05 USD", "Paid  10.00 USD"], "received your payment"),
        (1_205, ["Discount  12.05 USD", "Paid  0.00 USD"], "promotion code has paid"),
    ],
)
def test_a_receipt_says_what_a_promotion_code_took_off(discount: int, lines: list[str], says: str) -> None:
    text = body(sent(mail_of("receipt", discount_cents=discount)), "plain")
    assert says in text
    assert [line for line in lines if line not in text] == []
