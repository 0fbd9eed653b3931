"""deploy/nats/health.sh, which ends a NATS that says of itself that it cannot write."""

import http.server
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.local.parts import ROOT
from tests.support.ports import free_port


class Monitoring(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        if not self.status:
            # Hangs up and says nothing.
            return
        self.send_response(self.status if self.path == "/healthz" else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def monitoring() -> Iterator[http.server.HTTPServer]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Monitoring)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """What the script takes for NATS."""
    with subprocess.Popen(["sleep", "60"]) as started:
        yield started
        started.kill()


Look = Callable[[int | None], int]


@pytest.fixture
def look(monitoring: http.server.HTTPServer, process: subprocess.Popen[bytes], tmp_path: Path) -> Look:
    """Runs the script, for what NATS answers: a status, 0 for no word, None for a port that is closed."""
    once = tmp_path / "wgetrc"
    once.write_text("tries = 1\n")

    def look(status: int | None) -> int:
        Monitoring.status = status or 0
        port = monitoring.server_port if status is not None else free_port()
        environment = {
            "PATH": "/usr/bin:/bin",
            "WGETRC": str(once),
            "NATS_HEALTH_URL": f"http://127.0.0.1:{port}/healthz",
            "NATS_PID": str(process.pid),
            "NATS_HEALTH_FILE": str(tmp_path / "unwell"),
        }
        script = ROOT / "deploy/nats/health.sh"
        return subprocess.run(["sh", script], env=environment, check=False).returncode

    return look


def test_nats_is_ended_at_the_third_bad_answer_in_a_row_and_never_before_the_first_good_one(
    look: Look, process: subprocess.Popen[bytes]
) -> None:
    assert [look(status) for status in (503, 503, 503, 503)] == [1] * 4
    assert [look(status) for status in (200, 503, 503, 200, 503, 503)] == [0, 1, 1, 0, 1, 1]
    assert process.poll() is None
    assert look(503) == 1
    assert process.wait(5) == -15


def test_what_is_no_answer_ends_nothing(look: Look, process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """A busy machine, or a NATS that is starting or ending."""
    assert [look(status) for status in (200, 503, None, 0, None, 0, 500, 503)] == [0] + [1] * 7
    assert (tmp_path / "unwell").read_text() == "2\n"
    assert process.poll() is None
    look(503)
    assert process.wait(5) == -15
