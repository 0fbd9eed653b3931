"""The mailbox over real SMTP, as the shop sends, and over HTTP, as tests and people read."""

import asyncio
import signal
import time
from email.message import EmailMessage

import aiosmtplib
import pytest

from tests.integration.local.conftest import Mailbox

MIB = 1 << 20


def mail(to: str, *, html: str | None = None, **headers: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = "AI Shop <shop@aishop.local>"
    message["To"] = to
    message["Date"] = "Tue, 24 Nov 2026 13:30:00 +0100"
    message["Message-ID"] = "<receipt-1@aishop.local>"
    message["Subject"] = "Your order"
    for name, value in headers.items():
        del message[name]
        message[name] = value
    message.set_content("Thank you, Zoë.\n")
    if html is not None:
        message.add_alternative(html, subtype="html")
    return message


async def send(mailbox: Mailbox, message: EmailMessage | bytes, *to: str) -> None:
    await aiosmtplib.send(
        message, sender="shop@aishop.local", recipients=list(to), hostname="127.0.0.1", port=mailbox.smtp_port
    )


async def test_a_mail_can_be_read_by_its_recipient(mailbox: Mailbox) -> None:
    await send(mailbox, mail("ada@shop.test", html="<p>Thank <b>you</b></p>"), "ada@shop.test")
    await send(mailbox, mail("bob@shop.test", Subject="Grüße"), "bob@shop.test", "hidden@shop.test")
    (found,) = await mailbox.mails("ADA@shop.test")
    assert found["from"] == "AI Shop <shop@aishop.local>"
    assert (found["to"], found["subject"]) == (["ada@shop.test"], "Your order")
    assert (found["messageId"], found["date"]) == ("<receipt-1@aishop.local>", "2026-11-24T12:30:00+00:00")
    assert (found["text"].strip(), found["html"].strip()) == ("Thank you, Zoë.", "<p>Thank <b>you</b></p>")
    (other,) = await mailbox.mails("hidden@shop.test")
    assert (other["to"], other["subject"]) == (["bob@shop.test", "hidden@shop.test"], "Grüße")
    assert await mailbox.mails("nobody@shop.test") == []
    everything = (await mailbox.http.get("/api/messages")).json()["items"]
    assert [each["id"] for each in everything] == [found["id"], other["id"]]
    newest = (await mailbox.http.get("/api/messages", params={"limit": 1})).json()["items"]
    assert [each["id"] for each in newest] == [other["id"]]
    assert (await mailbox.http.get("/api/messages", params={"limit": 0})).status_code == 400


async def test_mails_survive_a_kill_until_they_are_deleted(mailbox: Mailbox) -> None:
    await send(mailbox, mail("ada@shop.test"), "ada@shop.test")
    before = await mailbox.mails("ada@shop.test")
    mailbox.process.end(signal.SIGKILL)
    await mailbox.process.start()
    assert await mailbox.mails("ada@shop.test") == before
    assert (await mailbox.http.delete("/api/messages")).status_code == 204
    assert await mailbox.mails("ada@shop.test") == []


async def test_a_strangers_page_reads_nothing_and_changes_nothing(mailbox: Mailbox) -> None:
    """DNS rebinding: a page's own name points to this machine, and its requests bear that name."""
    await send(mailbox, mail("ada@shop.test"), "ada@shop.test")
    for name in ("evil.example", "evil.example:8026", "127.0.0.1.evil.example", "[evil.example]", ""):
        answer = await mailbox.http.get("/api/messages", headers={"Host": name})
        assert answer.status_code in (400, 421), name
        assert "ada" not in answer.text
    for name in (
        "localhost:8026",
        "mailbox",
        "[::1]:8026",
        "mailbox.aishop.svc.cluster.local",
        "x.localhost",
    ):
        assert (await mailbox.http.get("/api/messages", headers={"Host": name})).status_code == 200, name
    answer = await mailbox.http.post(
        "/_control/faults", content=b'{"kind": "reject_4xx"}', headers={"Sec-Fetch-Site": "cross-site"}
    )
    assert answer.status_code == 403


async def test_pages_escape_headers_and_cage_html(mailbox: Mailbox) -> None:
    html = "<script>parent.hacked = 1</script>\" onload='x' <img src=https://evil.test/x>"
    hostile = mail("ada@shop.test", html=html, Subject="<script>alert(1)</script>")
    await send(mailbox, hostile, "ada@shop.test")
    (found,) = await mailbox.mails("ada@shop.test")
    for path in ("/", f"/messages/{found['id']}"):
        page = await mailbox.http.get(path)
        assert "<script>" not in page.text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.text
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
    cage = "allow-popups allow-popups-to-escape-sandbox"
    assert f'<iframe sandbox="{cage}" title="The mail as HTML" srcdoc="' in page.text
    # A link opens beside the frame, which no page of the shop lets itself be put into.
    assert 'srcdoc="&lt;base target=&quot;_blank&quot;&gt;&lt;script&gt;' in page.text
    assert "onload='x'" not in page.text
    for unknown in ("0", "none", "9" * 30):
        assert (await mailbox.http.get(f"/messages/{unknown}")).status_code == 404


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no headers at all",
        b"Subject: =?utf-8?b?////?=\r\nDate: yesterday\r\nFrom: <<>>,;\r\n\r\n\xff\xfe\x00",
        b"Content-Type: text/plain; charset=no-such\r\n\r\nbody \xe9",
        b"Content-Type: multipart/mixed; boundary=\r\nTo: a@b,,;:\r\n\r\n--\r\n",
        b"Subject: \xff\xfe raw\r\nContent-Transfer-Encoding: base64\r\n\r\n!!!",
        b"Message-ID: <[>\r\nDate: Mon, 99 Foo 2026 99:99:99 +9999\r\n\r\nx",
    ],
)
async def test_a_mail_that_breaks_the_rules_can_still_be_read(mailbox: Mailbox, content: bytes) -> None:
    await send(mailbox, content, "ada@shop.test")
    (found,) = await mailbox.mails("ada@shop.test")
    for path in ("/", f"/messages/{found['id']}"):
        assert (await mailbox.http.get(path)).status_code == 200


async def test_a_mail_of_more_than_a_mebibyte_is_refused(mailbox: Mailbox) -> None:
    with pytest.raises(aiosmtplib.SMTPResponseException) as caught:
        await send(mailbox, b"Subject: big\r\n\r\n" + b"x\r\n" * (MIB // 2), "ada@shop.test")
    assert caught.value.code == 552
    await send(mailbox, b"Subject: fits\r\n\r\n" + b"x\r\n" * (MIB // 4), "ada@shop.test")
    assert [each["subject"] for each in await mailbox.mails("ada@shop.test")] == ["fits"]


async def test_more_than_a_hundred_recipients_are_refused(mailbox: Mailbox) -> None:
    everyone = [f"user{number}@shop.test" for number in range(101)]
    async with aiosmtplib.SMTP(hostname="127.0.0.1", port=mailbox.smtp_port) as smtp:
        refused, _ = await smtp.sendmail("shop@aishop.local", everyone, b"Subject: x\r\n\r\nx")
    assert list(refused) == everyone[100:]


@pytest.mark.parametrize(("kind", "code"), [("reject_4xx", 451), ("reject_5xx", 554)])
async def test_a_scripted_refusal_keeps_nothing(mailbox: Mailbox, kind: str, code: int) -> None:
    assert (await mailbox.http.post("/_control/faults", json={"kind": kind, "count": 2})).status_code == 201
    for _ in range(2):
        with pytest.raises(aiosmtplib.SMTPDataError) as caught:
            await send(mailbox, mail("ada@shop.test"), "ada@shop.test")
        assert caught.value.code == code
    assert await mailbox.mails("ada@shop.test") == []
    await send(mailbox, mail("ada@shop.test"), "ada@shop.test")
    assert len(await mailbox.mails("ada@shop.test")) == 1


async def test_a_dropped_connection_leaves_the_sender_not_knowing(mailbox: Mailbox) -> None:
    await mailbox.http.post("/_control/faults", json={"kind": "drop_after_data"})
    with pytest.raises(aiosmtplib.SMTPServerDisconnected):
        await send(mailbox, mail("ada@shop.test"), "ada@shop.test")
    # It was kept: whoever sends it again sends it twice, under one Message-ID.
    await send(mailbox, mail("ada@shop.test"), "ada@shop.test")
    found = await mailbox.mails("ada@shop.test")
    assert [each["messageId"] for each in found] == ["<receipt-1@aishop.local>"] * 2


async def test_faults_can_be_cleared_and_nonsense_is_400(mailbox: Mailbox) -> None:
    for body in (b"", b"{}", b'{"kind":"x"}', b'{"kind":"reject_4xx","count":0}'):
        assert (await mailbox.http.post("/_control/faults", content=body)).status_code == 400
    await mailbox.http.post("/_control/faults", json={"kind": "reject_5xx", "count": 9})
    assert (await mailbox.http.delete("/_control/faults")).status_code == 200
    await send(mailbox, mail("ada@shop.test"), "ada@shop.test")


async def test_sigterm_ends_it_soon_even_with_a_sender_connected(mailbox: Mailbox) -> None:
    smtp = aiosmtplib.SMTP(hostname="127.0.0.1", port=mailbox.smtp_port)
    await smtp.connect()
    began = time.monotonic()
    assert await asyncio.to_thread(mailbox.process.end, signal.SIGTERM) == 0
    assert time.monotonic() - began < 2
    smtp.close()
