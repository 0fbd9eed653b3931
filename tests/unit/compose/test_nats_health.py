"""deploy/nats/health.sh, which ends a NATS that says of itself that it cannot write."""

import http.server
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.parts import ROOT


class Monitoring(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
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


def test_nats_is_ended_at_the_third_bad_answer_in_a_row_and_never_before_the_first_good_one(
    monitoring: http.server.HTTPServer, tmp_path: Path
) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:

        def look(status: int) -> int:
            Monitoring.status = status
            environment = {
                "PATH": "/usr/bin:/bin",
                "NATS_HEALTH_URL": f"http://127.0.0.1:{monitoring.server_port}/healthz",
                "NATS_PID": str(process.pid),
                "NATS_HEALTH_FILE": str(tmp_path / "unwell"),
            }
            script = ROOT / "deploy/nats/health.sh"
            return subprocess.run(["sh", script], env=environment, check=False).returncode

        assert [look(status) for status in (503, 503, 503, 503)] == [1] * 4
        assert [look(status) for status in (200, 503, 503, 200, 503, 503)] == [0, 1, 1, 0, 1, 1]
        assert process.poll() is None
        assert look(503) == 1
        assert process.wait(5) == -15
