"""Who runs in a data folder, and what is left of a supervisor that was killed.

Innocent bystanders are real processes that got a pid which a dead stack had written down.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from deploy.local import claim, logfiles, ports, postgres, supervisor
from deploy.local.claim import StackError, claimed, clean_up, living_supervisor
from deploy.local.ephemeral import RunningStack, is_gone, running_stack, wait_until
from deploy.local.identity import Identity
from deploy.local.parts import ROOT
from deploy.local.stackfile import StackFile
from deploy.local.supervisor import prepare_cluster

_SECONDS = 40.0


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "deploy.local.cli", *arguments]


def aishop(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@contextmanager
def bystander(program: str = "import time; time.sleep(120)") -> Iterator[Identity]:
    """Somebody who has nothing to do with us."""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        known = Identity.of(process.pid)
        assert known is not None
        try:
            yield known
            assert process.poll() is None, "an innocent process was ended"
        finally:
            process.kill()


def stack_file(supervisor_pid: int) -> StackFile:
    """What a stack that was killed has left."""
    everyone = ("postgres", "nats", "valkey", "wallet", "orders", "payments", "gateway", "stripe", "mailbox")
    places = {name: "postgresql://localhost:1/x" for name in ("wallet", "orders", "payments")}
    return StackFile(
        **dict.fromkeys(("gateway_url", "webhook_url", "stripe_url", "mailbox_url"), "http://localhost:1"),
        nats_url="nats://localhost:1",
        valkey_url="valkey://localhost:1",
        database_urls=places,
        grpc=places,
        metrics_urls=places,
        **dict.fromkeys(("auth_jwt_secret", "stripe_secret_key", "stripe_webhook_secret"), "x"),
        pids={"supervisor": supervisor_pid} | dict.fromkeys(everyone),
    )


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "d"
    yield folder
    aishop("down", "--data", str(folder))


@pytest.fixture
def up(data: Path, empty_databases: Path) -> Iterator[tuple[str, ...]]:
    """Of a shop that has been started before: initdb takes longer than all the rest."""
    shutil.copytree(empty_databases, data)
    with ports.free_offset() as offset:
        yield ("up", "--data", str(data), "--port-offset", str(offset), "--servers-only")


def kill_supervisor(data: Path) -> list[int]:
    """SIGKILL; the pids of the parts that it leaves."""
    known = living_supervisor(data)
    assert known is not None
    os.kill(known.pid, signal.SIGKILL)
    wait_until(lambda: living_supervisor(data) is None, seconds=_SECONDS, what="killed")
    return [who.pid for who in claim.recorded(data).values() if who]


# --- whose pid it is --------------------------------------------------------------------------------


@pytest.mark.parametrize("was", [{"started": 1}, {"boot": "an earlier one"}])
def test_a_pid_that_somebody_else_has_now_is_left_alone(tmp_path: Path, was: dict[str, int | str]) -> None:
    with bystander() as stranger:
        claim.record(tmp_path, {"postgres": Identity(**(asdict(stranger) | was))})
        assert clean_up(tmp_path) == []


def test_somebody_who_has_a_dead_supervisors_pid_is_neither_stopped_nor_taken_for_it(data: Path) -> None:
    data.mkdir()
    with bystander() as stranger:
        stack_file(stranger.pid).write(data)
        (data / "lock").write_text(json.dumps(asdict(stranger)))
        shown = aishop("status", "--data", str(data))
        assert (shown.returncode, "supervisor is gone" in shown.stderr) == (1, True)
        assert "runs" not in shown.stdout
        assert "nothing runs" in aishop("down", "--data", str(data)).stdout
        assert not (data / "stack.json").exists()


def test_up_starts_where_a_dead_supervisors_pid_is_in_use(data: Path, up: tuple[str, ...]) -> None:
    with bystander() as stranger:
        stack_file(stranger.pid).write(data)
        (data / "lock").write_text(json.dumps(asdict(stranger)))
        started = aishop(*up, "--detach")
        assert "ready" in started.stdout, started.stderr
        assert StackFile.read(data).pids["supervisor"] != stranger.pid
        assert aishop("down", "--data", str(data)).stdout.strip() == "stopped"


def test_a_lock_that_is_held_without_a_living_name_is_no_supervisor_to_signal(tmp_path: Path) -> None:
    with bystander() as stranger, ExitStack() as cleaning:
        lock = cleaning.enter_context(claimed(tmp_path))
        claim.sign(lock, replace(stranger, started=1))
        waiting = subprocess.Popen(command("down", "--data", str(tmp_path)), cwd=ROOT, stdout=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1.5)
        cleaning.close()
        assert b"nothing runs" in waiting.communicate(timeout=_SECONDS)[0]


def test_looking_at_the_lock_does_not_keep_a_supervisor_out(tmp_path: Path) -> None:
    with claimed(tmp_path), pytest.raises(StackError, match="another"):
        claimed(tmp_path, patience_seconds=0).__enter__()
    looking = "import fcntl, sys; file = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_SH)"
    looking += "; print(1, flush=True); sys.stdin.read()"
    arguments = [sys.executable, "-c", looking, str(tmp_path / "lock")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        assert living_supervisor(tmp_path) is None
        threading.Timer(0.2, process.stdin.close).start()
        with claimed(tmp_path):
            pass


def test_ending_a_process_that_ends_just_then_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        known = Identity.of(process.pid)
        assert known is not None
        real_kill = os.kill

        def late(pid: int, number: int) -> None:
            real_kill(pid, signal.SIGKILL)
            process.wait()
            real_kill(pid, number)

        monkeypatch.setattr(os, "kill", late)
        known.end(how=signal.SIGTERM, grace_seconds=5)
    assert not known.is_alive()


def test_a_process_that_ignores_the_signal_is_killed() -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{stubborn}; time.sleep(60)"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        known = Identity.of(process.pid)
        assert known is not None
        known.end(how=signal.SIGTERM, grace_seconds=0.2)
        assert process.wait() == -signal.SIGKILL


# --- a killed supervisor ----------------------------------------------------------------------------


def test_status_tells_the_truth_after_a_kill_and_what_was_left_is_ended(
    data: Path, up: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that does not hear of its supervisor's end lives on until somebody ends it."""
    assert aishop(*up, "--detach").returncode == 0
    nats = StackFile.read(data).pids["nats"] or 0
    os.kill(nats, signal.SIGSTOP)
    orphans = kill_supervisor(data)
    assert len(orphans) == 3
    others = {*orphans} - {nats}
    wait_until(lambda: all(map(is_gone, others)), seconds=_SECONDS, what="the others' end")
    shown = aishop("status", "--data", str(data))
    assert shown.returncode == 1
    states = [line.split("│")[1:4] for line in shown.stdout.splitlines() if line.startswith("│")]
    assert [(name.strip(), state.strip()) for name, _, state in states] == [
        *(("supervisor", "down"), ("postgres", "down"), ("nats", "runs"), ("valkey", "down"))
    ]
    # It hears of nothing, so that it is killed in the end.
    monkeypatch.setattr(claim, "_ORPHAN_SECONDS", 0.2)
    assert clean_up(data) == ["nats"]
    assert is_gone(nats)
    assert "aishop up" in aishop("status", "--data", str(data)).stderr


def test_after_a_power_cut_postgres_starts_though_somebody_has_its_pid(
    data: Path, up: tuple[str, ...]
) -> None:
    assert aishop(*up, "--detach").returncode == 0
    pids = StackFile.read(data).pids
    # So that it starts nothing again.
    os.kill(pids["supervisor"] or 0, signal.SIGSTOP)
    for pid in filter(None, (pids["postgres"], pids["nats"], pids["valkey"])):
        os.kill(pid, signal.SIGKILL)
    for pid in kill_supervisor(data):
        wait_until(lambda pid=pid: is_gone(pid), seconds=_SECONDS, what="killed")  # type: ignore[misc]
    lock = data / "postgres" / "postmaster.pid"
    with bystander() as stranger:
        _, rest = lock.read_text().split("\n", 1)
        lock.write_text(f"{stranger.pid}\n{rest}")
        started = aishop(*up, "--detach")
        assert started.returncode == 0, started.stderr


@pytest.mark.parametrize(
    "damage", [b"", b'{"postgres": {"pid": 1', b"\xff\xfe", b'{"postgres": [1, 2]}', None]
)
def test_a_damaged_record_of_pids_stops_nobody(tmp_path: Path, damage: bytes | None) -> None:
    if damage is None:
        stack_file(1).write(tmp_path)
    else:
        (tmp_path / "pids.json").write_bytes(damage)
    assert clean_up(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock"]


def test_a_child_whose_supervisor_dies_before_writing_it_down_does_not_run(tmp_path: Path) -> None:
    program = f"""
import asyncio, os, signal
from deploy.local.keeper import spawn
def born(identity):
    print(identity.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
async def main():
    with open({os.fspath(tmp_path / "log")!r}, "ab") as log:
        await spawn(["touch", {os.fspath(tmp_path / "ran")!r}], {{}}, log, born)
asyncio.run(main())
"""
    died = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, check=False)
    assert died.returncode == -signal.SIGKILL
    wait_until(lambda: is_gone(int(died.stdout)), seconds=_SECONDS, what="the unwritten child is gone")
    assert not (tmp_path / "ran").exists()


def test_a_cluster_whose_making_was_cut_off_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(cluster: Path, _password: str) -> None:
        cluster.mkdir(parents=True)
        (cluster / "PG_VERSION").write_text("17")
        raise RuntimeError("power")

    with monkeypatch.context() as failing:
        failing.setattr(postgres, "initialise", cut_off)
        with pytest.raises(RuntimeError, match="power"):
            prepare_cluster(tmp_path, "password")
    prepare_cluster(tmp_path, "password")
    assert (tmp_path / "postgres" / "global" / "pg_control").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["postgres"]


# --- starting and stopping --------------------------------------------------------------------------


def test_down_ends_a_stack_that_is_still_starting(data: Path, up: tuple[str, ...]) -> None:
    starting = subprocess.Popen(command(*up), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_until(lambda: bool(claim.recorded(data)), seconds=_SECONDS, what="the first child")
    pids = [who.pid for who in claim.recorded(data).values() if who]
    assert aishop("down", "--data", str(data)).stdout.strip() == "stopped"
    assert starting.communicate(timeout=_SECONDS)[1] == b""
    assert starting.returncode == 0
    assert all(is_gone(pid) for pid in pids)
    assert clean_up(data) == []


def test_of_two_ups_at_once_one_starts_and_the_other_says_so(data: Path, up: tuple[str, ...]) -> None:
    both = [
        subprocess.Popen(
            command(*up, "--detach"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(2)
    ]
    said = {process.communicate(timeout=_SECONDS)[0] for process in both}
    assert sum("ready: " in each for each in said) == 1
    other = next(each for each in said if "ready: " not in each)
    assert any(word in other for word in ("already running", "is starting", "another `aishop`")), other
    assert "Traceback" not in other
    assert aishop("status", "--data", str(data)).returncode == 0
    servers = [who for who in claim.recorded(data).values() if who]
    # Postgres, NATS and Valkey, each once.
    assert len(servers) == 3
    assert all(who.is_alive() for who in servers)


def test_a_detached_start_that_dies_says_why(data: Path, up: tuple[str, ...]) -> None:
    with closing(socket.create_server((ports.HOST, ports.shifted(int(up[4]))["nats"]))):
        refused = aishop(*up, "--detach")
    assert refused.returncode == 1
    assert "did not start" in refused.stderr
    assert f"pid {os.getpid()}" in refused.stderr
    assert living_supervisor(data) is None


@pytest.mark.parametrize("open_both", [os.pipe, os.openpty])
def test_a_stack_runs_on_when_nobody_reads_and_stops_at_a_hangup(
    data: Path, up: tuple[str, ...], open_both: Callable[[], tuple[int, int]]
) -> None:
    read, write = open_both()
    process = subprocess.Popen(command(*up), cwd=ROOT, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    wait_until((data / "stack.json").exists, seconds=_SECONDS, what="ready")
    os.close(read)
    stack = RunningStack(data)
    dead = stack.file.pids["nats"]
    assert dead is not None
    # Its death is told, to nobody.
    stack.kill("nats")
    stack.wait_restarted("nats", dead)
    pids = [pid for pid in stack.file.pids.values() if pid]
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=_SECONDS)[1] == b""
    assert process.returncode == 0
    assert all(is_gone(pid) for pid in pids)
    assert not (data / "pids.json").exists()


def test_a_supervisor_that_is_killed_while_stopping_leaves_its_record(
    data: Path, up: tuple[str, ...]
) -> None:
    assert aishop(*up, "--detach").returncode == 0
    nats = claim.recorded(data)["nats"]
    known = living_supervisor(data)
    assert nats is not None
    assert known is not None
    # It cannot be stopped, so that the supervisor waits for it.
    os.kill(nats.pid, signal.SIGSTOP)
    os.kill(known.pid, signal.SIGTERM)
    wait_until(lambda: not (data / "stack.json").exists(), seconds=_SECONDS, what="stopping")
    assert "starting or stopping" in aishop("status", "--data", str(data)).stdout
    assert "starting or stopping" in aishop(*up).stderr
    os.kill(known.pid, signal.SIGKILL)
    wait_until(lambda: living_supervisor(data) is None, seconds=_SECONDS, what="killed")
    assert claim.recorded(data)["nats"] == nats
    os.kill(nats.pid, signal.SIGCONT)
    clean_up(data)
    assert not nats.is_alive()
    assert clean_up(data) == []


# --- orders to a running supervisor -----------------------------------------------------------------


@pytest.fixture(scope="module")
def running(empty_databases: Path) -> Iterator[RunningStack]:
    with running_stack(servers_only=True, prepared=empty_databases) as stack:
        yield stack


def _ask(stack: RunningStack, line: bytes) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_SECONDS)
        connection.connect(os.fspath(stack.data / "supervisor.sock"))
        connection.sendall(line)
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile("r").readline()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff\n",
        b"[]\n",
        b'{"op": "stop"}\n',
        b'{"op": "stop", "part": "the moon"}\n',
        b'{"op": "explode", "part": "nats"}\n',
        b'{"op": "restart", "part": "nats", "environment": {"X": 1}}\n',
        b'{"op": "start", "part": "nats"}\n',
        b"x" * 100_000,
    ],
)
def test_an_order_that_makes_no_sense_is_answered_and_harms_nobody(
    running: RunningStack, line: bytes
) -> None:
    before = claim.recorded(running.data)
    assert _ask(running, line).startswith("error: ")
    assert claim.recorded(running.data) == before
    assert living_supervisor(running.data) is not None


def test_a_held_part_is_shown_as_down(running: RunningStack) -> None:
    running.hold("nats")
    assert running.file.pids["nats"] is None
    shown = aishop("status", "--data", str(running.data)).stdout
    assert [line.split("│")[3].strip() for line in shown.splitlines() if "nats" in line] == ["down"]
    running.release("nats")
    assert running.file.pids["nats"] is not None


def _order(data: Path, op: str, part: str) -> "subprocess.Popen[bytes]":
    program = "import sys, pathlib; from deploy.local.supervisor import order;"
    program += " order(pathlib.Path(sys.argv[1]), *sys.argv[2:])"
    arguments = [sys.executable, "-c", program, str(data), op, part]
    return subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE)


def test_two_restarts_at_once_leave_one_process(running: RunningStack) -> None:
    both = [_order(running.data, "restart", "nats") for _ in range(2)]
    assert [process.communicate(timeout=_SECONDS)[1] for process in both] == [b"", b""]
    assert len(_processes_with(running.data / "nats.conf")) == 1


def _processes_with(argument: Path) -> list[Path]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.fspath(argument).encode() in (process / "cmdline").read_bytes().split(b"\0"):
                found.append(process)
    return found


def test_a_part_that_dies_while_it_is_restarted_is_an_error_and_can_be_started_again(
    running: RunningStack,
) -> None:
    config = running.data / "nats.conf"
    good = config.read_text()
    config.write_text("no such: {setting")
    try:
        with pytest.raises(StackError, match="did not become ready"):
            running.restart("nats")
        assert living_supervisor(running.data) is not None
        assert "for the last time" in (running.data / "logs" / "supervisor.log").read_text()
    finally:
        config.write_text(good)
    running.release("nats")
    assert running.file.pids["nats"] is not None


def test_a_stack_that_stops_does_not_wait_for_an_order(data: Path, up: tuple[str, ...]) -> None:
    assert aishop(*up, "--detach").returncode == 0
    supervisor.order(data, "stop", "nats")
    config = data / "nats.conf"
    # It will run, and never be ready: the port that is asked is not the one where it answers.
    config.write_text(re.sub(r'listen: "[^"]*"', 'listen: "127.0.0.1:-1"', config.read_text()))
    waiting = _order(data, "start", "nats")
    wait_until(lambda: len(_processes_with(config)) == 1, seconds=_SECONDS, what="nats runs")
    began = time.monotonic()
    assert aishop("down", "--data", str(data)).stdout.strip() == "stopped"
    assert time.monotonic() - began < 20
    assert b"the supervisor has ended" in waiting.communicate(timeout=_SECONDS)[1]


# --- logs -------------------------------------------------------------------------------------------


def test_a_long_log_is_moved_away_under_the_hands_of_its_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logfiles, "_MAX_BYTES", 1000)
    (tmp_path / "logs").mkdir()
    with logfiles.open_log(tmp_path, "part") as log, logfiles.open_log(tmp_path, "small") as small:
        log.write(b"old line\n" * 200)
        log.flush()
        small.write(b"short\n")
        small.flush()
        logfiles.trim(tmp_path)
        log.write(b"new line\n")
    assert (tmp_path / "logs" / "part.log").read_text() == "new line\n"
    assert (tmp_path / "logs" / "part.log.1").read_text() == "old line\n" * 200
    assert logfiles.log_tail(tmp_path, "small") == "short"
    assert not (tmp_path / "logs" / "small.log.1").exists()
