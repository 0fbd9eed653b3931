"""`aishop status` and `aishop audit` where no stack of this machine runs."""

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.parts import ROOT


class Gateway(http.server.BaseHTTPRequestHandler):
    is_ready = True

    def do_GET(self) -> None:
        ready = self.path == "/healthz" or self.is_ready
        self.send_response(200 if ready else 503)
        self.end_headers()
        self.wfile.write(b"{}" if ready else b'{"unavailable": ["payments"]}')

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def url() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Gateway)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def aishop(folder: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "deploy.local.cli", *arguments]
    known = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run(
        command, cwd=folder, env=known | environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_status_says_what_serves_of_a_shop_elsewhere(url: str, tmp_path: Path) -> None:
    Gateway.is_ready = True
    said = aishop(tmp_path, "status", AISHOP_URL=url)
    assert (said.returncode, said.stdout.count(" serves ")) == (0, 4), said.stderr
    Gateway.is_ready = False
    said = aishop(tmp_path, "status", AISHOP_URL=url)
    assert said.returncode == 1
    [line] = [line for line in said.stdout.splitlines() if "payments" in line]
    assert "does not serve" in line
    assert said.stdout.count(" serves ") == 3


def test_audit_says_how_the_books_of_a_shop_elsewhere_are_looked_at(tmp_path: Path) -> None:
    said = aishop(tmp_path, "audit", AISHOP_URL="http://127.0.0.1:1")
    assert said.returncode == 1
    assert "docker compose run --rm audit" in said.stderr
    assert "WALLET_DATABASE_URL" in said.stderr
    # By its databases' URLs it is looked at: this one does not answer.
    urls = {
        f"{service}_DATABASE_URL": "postgresql://x@127.0.0.1:1/x"
        for service in ("WALLET", "ORDERS", "PAYMENTS")
    }
    said = aishop(tmp_path, "audit", **urls)
    assert said.returncode == 1
    assert "no stack runs here" not in said.stderr
