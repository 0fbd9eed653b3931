"""Starts the parts in order, restarts what dies, stops everything in reverse.

What a crash of the supervisor itself leaves behind is found in `pids.json` and ended by the next start.
`stack.json` appears when everything is ready and is replaced after each restart.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel

from deploy.local import claim, logfiles, parts, ports, postgres
from deploy.local.claim import StackError
from deploy.local.identity import Identity
from deploy.local.keeper import Kept, end_process, spawn
from deploy.local.parts import Part, Plan, RealStripe
from deploy.local.secret_store import load_or_draw
from deploy.local.stackfile import NAME, StackFile
from deploy.postgres.bootstrap import bootstrap
from deploy.postgres.roles import SERVICES

_ONE_SHOT_SECONDS = 10.0
# Logs, mails with their addresses, and Stripe's objects.
_TOLD_TO_NOBODY = ("logs", "mailbox", "stripe")
_NO_SANDBOX = "https://api.stripe.com"

Report = Callable[[str], None]
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Options:
    """What `aishop up` was asked for."""

    data: Path
    port_offset: int
    real_stripe: RealStripe | None = None
    servers_only: bool = False
    # The databases are migrated and seeded already.
    prepared: bool = False
    # Ends with whoever started it, whose end our standard input tells, and the folder with it.
    for_parent: bool = False
    # Origin of the pages that Stripe and mails lead to, and that may ask from a browser; None: the gateway's.
    frontend: str | None = None
    extra: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


class Order(BaseModel):
    """What a running supervisor can be told to do with a part."""

    op: Literal["stop", "start", "restart"]
    part: str
    environment: dict[str, str] | None = None


class Supervisor:
    """One stack in one data folder."""

    def __init__(self, options: Options, report: Report) -> None:
        self._options = options
        self._data = options.data
        self._report = report
        self._kept: dict[str, Kept] = {}
        self._one_shots: dict[str, tuple[asyncio.subprocess.Process | None, Identity | None]] = {}
        self._orders: set[asyncio.Task[None]] = set()
        self._complete = False
        self._is_orphan = False
        self._plan: Plan | None = None

    async def run(self) -> None:
        """Brings the stack up, keeps it until a signal, and takes it down again."""
        stop = asyncio.Event()
        _on_signals(stop.set)
        if self._options.for_parent:
            _when_input_ends(partial(self._leave_nothing, stop))
        make_private(self._data)
        with claim.claimed(self._data) as lock:
            # Before the signature: a file of a signed folder is always the signer's.
            (self._data / NAME).unlink(missing_ok=True)
            me = Identity.of(os.getpid())
            assert me is not None, "we run"
            claim.sign(lock, me)
            start = asyncio.create_task(self._start())
            stopped = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait([start, stopped], return_when=asyncio.FIRST_COMPLETED)
                if start.done():
                    start.result()
            finally:
                start.cancel()
                stopped.cancel()
                await asyncio.wait([start])
                await self._stop()
                self._report("stopped")
        if self._is_orphan:
            shutil.rmtree(self._data, ignore_errors=True)

    def _leave_nothing(self, stop: asyncio.Event) -> None:
        """Nobody is left to remove the folder."""
        self._is_orphan = True
        stop.set()

    async def _start(self) -> None:
        await _in_thread(partial(claim.end_orphans, self._data))
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
            frontend=self._options.frontend,
        )
        await _in_thread(partial(prepare_cluster, plan.data, plan.secrets.postgres_password))
        await self._bring_up(parts.servers(plan))
        await _in_thread(partial(bootstrap, plan.admin_url("postgres"), plan.secrets.role_passwords))
        if not self._options.servers_only:
            for together in [] if self._options.prepared else parts.one_shots(plan):
                await asyncio.gather(*(self._run_once(*one_shot) for one_shot in together))
            await self._bring_up(parts.applications(plan))
        (self._data / "supervisor.sock").unlink(missing_ok=True)
        with _socket_path(self._data) as path:
            server = await asyncio.start_unix_server(self._listen, path)
        self._complete = True
        self._write_stack_file()
        self._report("ready")
        try:
            await logfiles.keep_small(self._data)
        finally:
            server.close()

    async def _bring_up(self, together: Sequence[Part]) -> None:
        for part in together:
            self._kept[part.name] = Kept(
                part,
                self._data,
                record=self._record,
                report=partial(self._tell_of, part.name),
                came_back=self._came_back,
            )
        await asyncio.gather(*(self._kept[part.name].started() for part in together))

    async def _run_once(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        def born(identity: Identity | None) -> None:
            self._one_shots[name] = (None, identity)
            self._record()

        with logfiles.open_log(self._data, name) as log:
            process = await spawn(command, environment, log, born)
        self._one_shots[name] = (process, self._one_shots[name][1])
        code = await process.wait()
        if code != 0:
            raise StackError(f"{name} failed with exit code {code}:\n{logfiles.log_tail(self._data, name)}")
        del self._one_shots[name]
        self._report(f"{name} done")

    async def _stop(self) -> None:
        self._complete = False
        for name in (NAME, "supervisor.sock"):
            (self._data / name).unlink(missing_ok=True)
        for kept in self._kept.values():
            kept.give_up()
        for task in self._orders:
            task.cancel()
        await asyncio.gather(*self._orders, return_exceptions=True)
        running = [process for process, _ in self._one_shots.values() if process]
        await asyncio.gather(*(end_process(each, signal.SIGTERM, _ONE_SHOT_SECONDS) for each in running))
        # The gateway first, so that no request starts that cannot finish.
        for together in (
            [kept for name, kept in self._kept.items() if name == "gateway"],
            [kept for name, kept in self._kept.items() if name not in ("gateway", *parts.SERVERS)],
            [kept for name, kept in self._kept.items() if name in parts.SERVERS],
        ):
            await asyncio.gather(*(kept.stop() for kept in together))
        # Last: whoever kills us before leaves a record of what still runs.
        claim.forget(self._data)

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One line of JSON, an `Order`; answered with "done", or what is wrong, when it is done."""
        task = asyncio.current_task()
        assert task is not None, "asyncio runs each connection in a task"
        self._orders.add(task)
        try:
            answer = await self._answer(reader)
            writer.write(answer.replace("\n", " ").encode() + b"\n")
            # Whoever does not wait for the answer does not want it.
            with suppress(ConnectionError):
                await writer.drain()
        finally:
            self._orders.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> str:
        try:
            order = Order.model_validate_json(await reader.readline())
            if order.part not in self._kept:
                raise StackError(f"there is no part {order.part}")
            await self._obey(self._kept[order.part], order)
        except (StackError, ValueError, OSError) as error:
            # ValueError: no JSON, no order, or a line that never ends.
            return f"error: {error}"
        return "done"

    async def _obey(self, kept: Kept, order: Order) -> None:
        async with kept.turn:
            if order.op in ("stop", "restart"):
                await kept.stop()
            if order.op in ("start", "restart"):
                await kept.start_again(order.environment or {})
        self._came_back()

    def _tell_of(self, name: str, event: str) -> None:
        self._report(f"{name} {event}")

    def _record(self) -> None:
        known = {name: kept.identity for name, kept in self._kept.items()}
        claim.record(self._data, known | {name: who for name, (_, who) in self._one_shots.items()})

    def _came_back(self) -> None:
        # Not before everything was ready once, and not while everything ends.
        if self._complete:
            self._write_stack_file()

    def _write_stack_file(self) -> None:
        assert self._plan is not None, "ready only after the plan was made"
        pids = {name: kept.pid for name, kept in self._kept.items()}
        stack_file(self._plan, pids).write(self._data)


def stack_file(plan: Plan, pids: Mapping[str, int | None]) -> StackFile:
    everyone = (*parts.SERVERS, "wallet", "orders", "payments", "gateway", "stripe", "mailbox")
    return StackFile(
        gateway_url=plan.url("gateway"),
        webhook_url=plan.webhook_url,
        stripe_url=_NO_SANDBOX if plan.real_stripe else plan.url("stripe"),
        mailbox_url=plan.url("mailbox"),
        nats_url=plan.nats_url,
        valkey_url=plan.valkey_url,
        database_urls={service: plan.admin_url(service) for service in SERVICES},
        grpc={service: plan.address(service) for service in SERVICES},
        metrics_urls={
            process: f"http://{plan.address(f'{process} metrics')}/metrics"
            for process in (*SERVICES, "gateway")
        },
        auth_jwt_secret=plan.secrets.auth_jwt_secret,
        stripe_secret_key=plan.stripe_key,
        stripe_webhook_secret=plan.stripe_webhook_secret,
        pids={"supervisor": os.getpid()} | {name: pids.get(name) for name in everyone},
    )


def _on_signals(stop: Callable[[], None]) -> None:
    """A closed terminal ends the stack as Ctrl-C does, unless we were started to survive it (nohup)."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, stop)


def _when_input_ends(stop: Callable[[], None]) -> None:
    """Nothing is ever written there: it can be read when the other end is closed."""
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(sys.stdin)
        stop()

    loop.add_reader(sys.stdin, ended)


def make_private(data: Path) -> None:
    """What the shop and its stand-ins write down is its owner's alone: by this process and its children from
    now on, and what a version before has left."""
    os.umask(0o077)
    data.mkdir(parents=True, exist_ok=True)
    for name in _TOLD_TO_NOBODY:
        folder = data / name
        if folder.is_dir():
            folder.chmod(0o700)
            for path in folder.iterdir():
                path.chmod(0o600)


async def _in_thread(work: Callable[[], Answer]) -> Answer:
    """Waits for the thread even when cancelled: it cannot be cancelled, and must not go on unseen."""
    thread = asyncio.create_task(asyncio.to_thread(work))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])
        raise


def prepare_cluster(data: Path, password: str) -> None:
    """A folder named postgres is always a whole cluster, whenever the making of one was cut off."""
    cluster = data / "postgres"
    for unfinished in data.glob("postgres.*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    if not cluster.exists():
        # Private and of its own: what an initdb without a supervisor still writes goes nowhere.
        scratch = Path(tempfile.mkdtemp(prefix="postgres.", dir=data))
        postgres.initialise(scratch / "cluster", password)
        (scratch / "cluster").rename(cluster)
        scratch.rmdir()
    _forget_stranger(cluster)


def _forget_stranger(cluster: Path) -> None:
    """Postgres takes any living process whose pid stands in its lock file for itself, and does not start.

    After a power cut that may be anybody: a postmaster of ours would be in this folder.
    """
    lock = cluster / "postmaster.pid"
    if lock.exists():
        pid = lock.read_text().partition("\n")[0]
        # A dead one is left to Postgres, which also looks for children that outlived it.
        if not pid.isdecimal() or _is_stranger(int(pid), cluster):
            lock.unlink()


def _is_stranger(pid: int, cluster: Path) -> bool:
    if Identity.of(pid) is None:
        return False
    try:
        return not (Path("/proc") / str(pid) / "cwd").samefile(cluster)
    except OSError:
        # Another user's process, or one that ended just now.
        return True


@contextmanager
def _socket_path(data: Path) -> Iterator[str]:
    """By way of an open descriptor of the folder: a socket's path holds 107 bytes, however long the folder's
    is."""
    folder = os.open(data, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/supervisor.sock"
    finally:
        os.close(folder)


def order(data: Path, op: str, part: str, environment: Mapping[str, str] | None = None) -> None:
    """Tells a running supervisor to stop, start or restart a part, and waits until that is done."""
    with socket.socket(socket.AF_UNIX) as connection:
        with _socket_path(data) as path:
            connection.connect(path)
        message = {"op": op, "part": part, "environment": environment}
        connection.sendall(json.dumps(message).encode() + b"\n")
        answer = connection.makefile("rb").readline().decode().strip()
    if answer != "done":
        raise StackError(f"{part} could not be told to {op}: {answer or 'the supervisor has ended'}")
