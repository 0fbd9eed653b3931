"""What a log line says of an error: where and what, and nothing of the values at hand."""

import json
import signal
import subprocess
import sys

_FAILING = """
from services.chassis import logs

logs.configure("wallet", "INFO")
log = logs.get("here")

def fail(email):
    raise ValueError("no such thing")

try:
    fail("ada@example.com")
except ValueError:
    log.exception("thing.failed", thing_id="7")
"""


def test_a_logged_traceback_holds_no_local_variables() -> None:
    ran = subprocess.run([sys.executable, "-c", _FAILING], capture_output=True, text=True, check=True)
    line = json.loads(ran.stderr)
    assert (line["event"], line["service"], line["thing_id"]) == ("thing.failed", "wallet", "7")
    [exception] = line["exception"]
    assert (exception["exc_type"], exception["exc_value"]) == ("ValueError", "no such thing")
    assert exception["frames"][-1]["name"] == "fail"
    assert "ada@example.com" not in ran.stderr


_CRASHING = """
import os, signal
from services.chassis import logs

logs.configure("wallet", "INFO")

def crash():
    os.kill(os.getpid(), signal.SIGSEGV)

crash()
"""


def test_a_crash_beneath_python_leaves_its_stack_with_the_logs() -> None:
    ran = subprocess.run([sys.executable, "-c", _CRASHING], capture_output=True, text=True, check=False)
    assert ran.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in ran.stderr
    assert "in crash" in ran.stderr


_UNABLE = """
import logging, sys
from services.chassis import logs, metrics

logs.configure("wallet", "INFO")
logs.get("here").info("thing.done", thing_id="7")
logging.getLogger("asyncio").warning("of a library")
print(int(metrics.LOG_LINES_LOST._value.get()))
"""


def test_a_line_that_cannot_be_written_fails_nobody_and_is_counted() -> None:
    """/dev/full says what a full disk says."""
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [sys.executable, "-c", _UNABLE], stdout=subprocess.PIPE, stderr=full, text=True, check=False
        )
    assert (ran.returncode, ran.stdout) == (0, "2\n")
