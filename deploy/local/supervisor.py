"""Starts the parts in order, restarts what dies, stops everything in reverse.

States of a part: starting → ready → (died → waiting → starting) …, or held while a test keeps it down.
What a crash of the supervisor itself leaves behind is found by pid and start time (`pids.json`) and ended
by the next start. `stack.json` appears when everything is ready and is replaced after each restart.
"""

import asyncio
import fcntl
import json
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from deploy.local import parts, ports, postgres
from deploy.local.identity import Identity
from deploy.local.parts import Part, Plan, RealStripe
from deploy.local.secret_store import load_or_draw, write_private
from deploy.local.stackfile import StackFile
from deploy.postgres.bootstrap import SERVICES, bootstrap

_READY_SECONDS = 60.0
_POLL_SECONDS = 0.05
_MIN_PAUSE_SECONDS = 0.2
_MAX_PAUSE_SECONDS = 5.0
# A part that dies this often without ever being ready will not be ready by trying once more.
_EARLY_DEATHS = 3
_MAX_LOG_BYTES = 10 << 20
_NO_SANDBOX = "https://api.stripe.com"

Report = Callable[[str], None]


class StackError(Exception):
    """Something that the person at the keyboard can mend; the message says how."""


@dataclass(frozen=True)
class Options:
    """What `aishop up` was asked for."""

    data: Path
    port_offset: int
    real_stripe: RealStripe | None = None
    servers_only: bool = False
    extra: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


class Supervisor:
    """One stack in one data folder."""

    def __init__(self, options: Options, report: Report) -> None:
        self._options = options
        self._data = options.data
        self._report = report
        self._kept: dict[str, _Kept] = {}
        self._stopping = False
        self._complete = False
        self._plan: Plan | None = None

    async def run(self) -> None:
        """Brings the stack up, keeps it until SIGINT or SIGTERM, and takes it down again."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        self._data.mkdir(parents=True, exist_ok=True)
        with _lock(self._data):
            start = asyncio.create_task(self._start())
            stopped = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait([start, stopped], return_when=asyncio.FIRST_COMPLETED)
                if start.done():
                    start.result()
                    await stopped
            finally:
                start.cancel()
                stopped.cancel()
                await self._stop()

    async def _start(self) -> None:
        end_orphans(self._data)
        wanted = ports.shifted(self._options.port_offset)
        for port in ports.busy(wanted.values()):
            raise StackError(
                f"port {port} is taken by {ports.holder(port)}: stop it, or start with --port-offset N"
            )
        self._plan = plan = Plan(
            data=self._data.resolve(),
            ports=wanted,
            secrets=load_or_draw(self._data),
            real_stripe=self._options.real_stripe,
            extra=self._options.extra,
        )
        (self._data / "logs").mkdir(exist_ok=True)
        await asyncio.to_thread(postgres.initialise, plan.data / "postgres", plan.secrets.postgres_password)
        await self._bring_up(parts.servers(plan))
        await asyncio.to_thread(bootstrap, plan.admin_url("postgres"), plan.secrets.role_passwords)
        if not self._options.servers_only:
            for together in parts.one_shots(plan):
                await asyncio.gather(*(self._run_once(*one_shot) for one_shot in together))
            await self._bring_up(parts.applications(plan))
        (self._data / "supervisor.sock").unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._obey, _socket_path(self._data))
        self._complete = True
        self._write_stack_file()
        self._report("ready")
        async with server:
            await server.serve_forever()

    async def _bring_up(self, together: Sequence[Part]) -> None:
        for part in together:
            self._kept[part.name] = _Kept(part, self)
        await asyncio.gather(*(self._kept[part.name].started() for part in together))

    async def _run_once(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        with _log(self._data, name) as log:
            process = await _spawn(command, environment, log)
            code = await process.wait()
        if code != 0:
            raise StackError(f"{name} failed with exit code {code}:\n{log_tail(self._data, name)}")
        self._report(f"{name} done")

    async def _stop(self) -> None:
        self._stopping = True
        for name in ("stack.json", "pids.json", "supervisor.sock"):
            (self._data / name).unlink(missing_ok=True)
        applications = [kept for name, kept in self._kept.items() if name not in ("postgres", "nats")]
        infrastructure = [kept for name, kept in self._kept.items() if name in ("postgres", "nats")]
        # The gateway first, so that no request starts that cannot finish.
        for together in (
            [kept for kept in applications if kept.part.name == "gateway"],
            [kept for kept in applications if kept.part.name != "gateway"],
            infrastructure,
        ):
            await asyncio.gather(*(kept.stop() for kept in together))

    async def _obey(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One line of JSON {op: stop|start|restart, part, environment?}, answered when it is done."""
        order = json.loads(await reader.readline())
        kept = self._kept[order["part"]]
        if order["op"] in ("stop", "restart"):
            await kept.stop()
        if order["op"] in ("start", "restart"):
            await kept.start_again(order.get("environment") or {})
        self._write_stack_file()
        writer.write(b"done\n")
        await writer.drain()
        writer.close()

    def describe(self, name: str, event: str) -> None:
        self._report(f"{name} {event}")

    def record(self) -> None:
        """Writes down who runs, so that a later start can end what we could not."""
        identities = {name: kept.identity for name, kept in self._kept.items() if kept.identity}
        write_private(
            self._data / "pids.json",
            json.dumps({name: [who.pid, who.started] for name, who in identities.items()}),
        )

    def came_back(self) -> None:
        if self._complete and not self._stopping:
            self._write_stack_file()

    @property
    def stopping(self) -> bool:
        return self._stopping

    @property
    def data(self) -> Path:
        return self._data

    def _write_stack_file(self) -> None:
        assert self._plan is not None, "ready only after the plan was made"
        pids = {name: kept.pid for name, kept in self._kept.items()}
        stack_file(self._plan, pids).write(self._data)


def stack_file(plan: Plan, pids: Mapping[str, int | None]) -> StackFile:
    everyone = ("postgres", "nats", "valkey", "wallet", "orders", "payments", "gateway", "stripe", "mailbox")
    return StackFile(
        gateway_url=plan.url("gateway"),
        webhook_url=plan.webhook_url,
        stripe_url=_NO_SANDBOX if plan.real_stripe else plan.url("stripe"),
        mailbox_url=plan.url("mailbox"),
        nats_url=plan.nats_url,
        valkey_url=None,
        database_urls={service: plan.admin_url(service) for service in SERVICES},
        grpc={service: plan.address(service) for service in SERVICES},
        auth_jwt_secret=plan.secrets.auth_jwt_secret,
        stripe_secret_key=plan.stripe_key,
        stripe_webhook_secret=plan.stripe_webhook_secret,
        pids={"supervisor": os.getpid()} | {name: pids.get(name) for name in everyone},
    )


class _Kept:
    """One part that is kept running."""

    def __init__(self, part: Part, supervisor: Supervisor) -> None:
        self.part = part
        self.identity: Identity | None = None
        self._supervisor = supervisor
        self._ready = asyncio.Event()
        self._held = False
        self._was_ready = False
        self._process: asyncio.subprocess.Process | None = None
        self._task = asyncio.create_task(self._keep())

    @property
    def pid(self) -> int | None:
        return None if self._held or self._process is None else self._process.pid

    async def started(self) -> None:
        """Waits until the part is ready; StackError with the end of its log when it does not get there."""
        ready = asyncio.create_task(self._ready.wait())
        await asyncio.wait([ready, self._task], timeout=_READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            tail = log_tail(self._supervisor.data, self.part.name)
            raise StackError(f"{self.part.name} did not become ready:\n{tail}")

    async def stop(self) -> None:
        """Ends the process and keeps it down."""
        self._held = True
        self._ready.clear()
        process = self._process
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                process.send_signal(self.part.stop_signal)
            try:
                await asyncio.wait_for(process.wait(), self.part.grace_seconds)
            except TimeoutError:
                self._supervisor.describe(self.part.name, "did not stop in time and was killed")
                process.kill()
                await process.wait()
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def start_again(self, environment: Mapping[str, str]) -> None:
        """Starts a held part, with these variables on top of its own."""
        self.part = replace(self.part, environment=self.part.environment | dict(environment))
        self._held = False
        self._task = asyncio.create_task(self._keep())
        await self.started()

    async def _keep(self) -> None:
        pause = _MIN_PAUSE_SECONDS
        early_deaths = 0
        while not self._held and not self._supervisor.stopping and early_deaths < _EARLY_DEATHS:
            with _log(self._supervisor.data, self.part.name) as log:
                self._process = await _spawn(self.part.command, self.part.environment, log)
            self.identity = Identity.of(self._process.pid)
            self._supervisor.record()
            probe = asyncio.create_task(self._probe())
            code = await self._process.wait()
            probe.cancel()
            early_deaths += not self._was_ready
            was_ready = self._ready.is_set()
            self._ready.clear()
            if self._held or self._supervisor.stopping:
                return
            pause = _MIN_PAUSE_SECONDS if was_ready else pause
            self._supervisor.describe(self.part.name, f"died ({_how(code)}), starts again in {pause:.1f} s")
            await asyncio.sleep(pause)
            pause = min(_MAX_PAUSE_SECONDS, pause * 2)

    async def _probe(self) -> None:
        while not await self._is_ready():
            await asyncio.sleep(_POLL_SECONDS)
        self._ready.set()
        self._was_ready = True
        self._supervisor.describe(self.part.name, "is ready")
        self._supervisor.came_back()

    async def _is_ready(self) -> bool:
        try:
            return await self.part.ready()
        except (OSError, TimeoutError):
            return False


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


async def _spawn(
    command: list[str], environment: Mapping[str, str], log: IO[bytes]
) -> asyncio.subprocess.Process:
    """A child in a session of its own: the terminal's Ctrl-C reaches the supervisor alone."""
    return await asyncio.create_subprocess_exec(
        *command,
        cwd=parts.ROOT,
        env=parts.base_environment() | dict(environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def _log(data: Path, name: str) -> IO[bytes]:
    path = data / "logs" / f"{name}.log"
    if path.exists() and path.stat().st_size > _MAX_LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return path.open("ab")


def log_tail(data: Path, name: str, lines: int = 15) -> str:
    """The end of a part's log."""
    path = data / "logs" / f"{name}.log"
    if not path.exists():
        return ""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def _socket_path(data: Path) -> str:
    """Relative where that is shorter: a socket's path holds 107 bytes."""
    path = data / "supervisor.sock"
    return min(os.fspath(path.absolute()), os.path.relpath(path), key=len)


def _lock(data: Path) -> IO[str]:
    """Held as long as the supervisor lives; the kernel gives it up with the process."""
    lock = (data / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise StackError(f"another `aishop up` uses {data}: see `aishop status --data {data}`") from error
    return lock


def end_orphans(data: Path) -> list[str]:
    """Ends what a killed supervisor left running, the servers last; returns the names."""
    path = data / "pids.json"
    if not path.exists():
        return []
    recorded = {name: Identity(*who) for name, who in json.loads(path.read_text()).items()}
    alive = {name: who for name, who in recorded.items() if who.is_alive()}
    for name in sorted(alive, key=lambda name: name in ("postgres", "nats")):
        how = signal.SIGINT if name == "postgres" else signal.SIGTERM
        alive[name].end(how=how, grace_seconds=10.0)
    path.unlink()
    return list(alive)


def order(data: Path, op: str, part: str, environment: Mapping[str, str] | None = None) -> None:
    """Tells a running supervisor to stop, start or restart a part, and waits until that is done."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(_socket_path(data))
        message = {"op": op, "part": part, "environment": environment}
        connection.sendall(json.dumps(message).encode() + b"\n")
        answer = connection.makefile("rb").readline()
    if answer != b"done\n":
        raise StackError(f"{part} could not be told to {op}: see {data}/logs/supervisor.log")
