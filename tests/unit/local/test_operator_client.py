"""How a command finds its gateway, and what it says when what answers is none."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from deploy.local.operator.client import Gateway, GatewayError, gateway_of, operator_id

# What some other server says, or what stands before a gateway that is away.
_ANSWERS = {
    "/text": (200, b"<h1>It works!</h1>"),
    "/list": (200, b"[]"),
    "/nothing": (404, b'{"error": "?"}'),
    "/away": (502, b""),
}
# By their number.
_ORDERS = {
    "/api/admin/orders?number=0000000000aa": (200, b'{"items": [{"orderId": "one"}]}'),
    "/api/admin/orders?number=0000000000bb": (200, b'{"items": [{"orderId": "one"}, {"orderId": "two"}]}'),
    "/api/admin/orders?number=0000000000cc": (200, b'{"items": []}'),
}
_PROBLEMS = {
    "/refused": (
        409,
        {"code": "quarantine_resolved", "title": "It is settled", "detail": "status fulfilled"},
        "quarantine_resolved: It is settled. status fulfilled",
    ),
    "/invalid": (
        422,
        {
            "code": "invalid_request",
            "title": "Not valid",
            "errors": [{"field": "points", "message": "not 0"}, {"field": "reason", "message": "missing"}],
        },
        "invalid_request: Not valid. points: not 0. reason: missing",
    ),
}


class _Stranger(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, body = (_ANSWERS | _ORDERS).get(self.path) or _problem(self.path)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silent."""


def _problem(path: str) -> tuple[int, bytes]:
    status, document, _ = _PROBLEMS[path]
    return status, json.dumps(document).encode()


@pytest.fixture
def stranger() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Stranger) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@contextmanager
def entered(monkeypatch: pytest.MonkeyPatch, url: str, token: str = "t") -> Iterator[Gateway]:
    monkeypatch.setenv("AISHOP_URL", url)
    monkeypatch.setenv("AISHOP_TOKEN", token)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with gateway_of(None, None) as gateway:
        yield gateway


@pytest.mark.parametrize("path", _ANSWERS)
def test_whoever_is_no_gateway_is_named(monkeypatch: pytest.MonkeyPatch, stranger: str, path: str) -> None:
    with entered(monkeypatch, stranger) as gateway, pytest.raises(GatewayError) as told:
        gateway.get(path)
    status = _ANSWERS[path][0]
    said = f"{stranger}{path} answered {status}, not as the gateway does: is AISHOP_URL its origin?"
    assert str(told.value) == said
    assert told.value.outcome_unknown == (path == "/away")


def test_a_number_is_one_order_or_an_error_that_says_so(
    monkeypatch: pytest.MonkeyPatch, stranger: str
) -> None:
    order_id = "01920000-0000-7000-8000-0000000000bb"
    with entered(monkeypatch, stranger) as gateway:
        assert gateway.order_id("0000000000aa") == "one"
        assert gateway.order_id(order_id) == order_id
        with pytest.raises(GatewayError, match=r"several orders have the number .*: one, two"):
            gateway.order_id("0000000000bb")
        with pytest.raises(GatewayError, match="no order has the number 0000000000cc"):
            gateway.order_id("0000000000cc")


@pytest.mark.parametrize("path", _PROBLEMS)
def test_a_problem_is_told_on_one_line(monkeypatch: pytest.MonkeyPatch, stranger: str, path: str) -> None:
    with entered(monkeypatch, stranger) as gateway, pytest.raises(GatewayError) as told:
        gateway.get(path)
    assert str(told.value) == _PROBLEMS[path][2]
    assert not told.value.outcome_unknown


@pytest.mark.parametrize(
    ("url", "token", "why"),
    [
        ("shop.example.com", "t", "is an origin"),
        ("ftp://shop.example.com", "t", "is an origin"),
        ("http://shop.example.com:eighty", "t", "is not a URL"),
        ("https://shop.example.com", "", "without AISHOP_TOKEN"),
        ("https://shop.example.com", " \n", "without AISHOP_TOKEN"),
        ("https://shop.example.com", "secret\nX-Other: 1", "no token has"),
        ("https://shop.example.com", "sécret", "no token has"),
    ],
)
def test_an_address_or_token_that_cannot_be_one_is_refused_unsent(
    monkeypatch: pytest.MonkeyPatch, url: str, token: str, why: str
) -> None:
    with pytest.raises(GatewayError, match=why) as told, entered(monkeypatch, url, token):
        pytest.fail("let in")
    assert "cret" not in str(told.value), "tokens are secrets"


def test_a_folder_that_is_named_comes_before_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AISHOP_URL", "https://shop.example.com")
    monkeypatch.setenv("AISHOP_TOKEN", "t")
    with pytest.raises(FileNotFoundError, match="no stack runs here"), gateway_of(tmp_path, None):
        pytest.fail("let in")


def test_an_operator_is_the_same_for_ever_also_without_a_name() -> None:
    assert operator_id(0) == operator_id(0) != operator_id(2**31 - 7)
    assert operator_id(os.getuid()).version == 5
