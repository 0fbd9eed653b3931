"""`make compose-test`: the whole shop in containers, bought from while its containers are killed one by one.

Builds, brings the project `aishop-test` up with ports and secrets of its own, buys through the published
ports, kills, audits, stops, takes everything down, and writes docs/compose-report.md. Needs Docker.
"""

import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import httpx
from rich.console import Console

from deploy.compose import disaster, environment
from deploy.compose.containers import DockerError, Project, docker
from deploy.compose.customers import Customer
from deploy.compose.doors import DOORS, knock
from deploy.compose.report import Report
from deploy.local import tokens
from deploy.local.demo.shopper import Shopper
from deploy.local.ephemeral import wait_until
from deploy.local.parts import ROOT

_PROJECT = "aishop-test"
_REPORT = ROOT / "docs" / "compose-report.md"
_VERSION = "trial"
_BASE = "python:3.13-slim-bookworm"
# Below the ephemeral range, and beside a shop that runs on the usual ones.
_PORTS = {"GATEWAY_PORT": 18080, "WEBHOOK_PORT": 18081, "STRIPE_PORT": 18082, "MAILBOX_PORT": 18026}
_OURS = ("wallet", "orders", "payments", "gateway", "stripe", "mailbox")
_KILLED = ("wallet", "orders", "payments", "gateway", "nats", "postgres", "valkey", "mailbox")
_CUSTOMERS = 3
_BUILD_SECONDS = 3600.0
_START_SECONDS = 600.0
_BACK_SECONDS = 120.0
# Between two kills the shop works undisturbed for so long.
_BREATH_SECONDS = 5.0

Answer = TypeVar("Answer")


class Trial:
    """The steps, in order; each adds to the report."""

    def __init__(self, project: Project, secret: str, console: Console) -> None:
        self._project = project
        self._secret = secret
        self._console = console
        self._report = Report("The shop in containers: a report")
        self.gateway_url = f"http://127.0.0.1:{_PORTS['GATEWAY_PORT']}"
        self.auth_jwt_secret = secret

    def run(self) -> Report:
        self._head()
        self._report.section("Building and starting")
        self._step("images built", lambda: self._project.run("build", seconds=_BUILD_SECONDS))
        self._step("`up`: every job done, every container healthy", self._up)
        self._images()
        self._doors()
        self._buy()
        self._kill_while_buying()
        self._audit()
        self._lose_and_restore()
        self._stop()
        self._not_covered()
        return self._report

    def _head(self) -> None:
        commit = _git("rev-parse", "--short=12", "HEAD") + (" and changes" if _git("status", "-s") else "")
        memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        engine = docker("version", "--format", "{{.Server.Version}}").strip()
        compose = self._project.run("version", "--short").strip()
        self._report.paragraph("Written by `make compose-test`, which did all of this on real containers.")
        self._report.item(f"commit {commit}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
        self._report.item(f"{os.cpu_count()} cores, {memory_gib:.0f} GiB, Linux {platform.release()}")
        self._report.item(f"load average at the start {os.getloadavg()[0]:.0f}: what else the machine did")
        self._report.item(f"Docker {engine}, compose {compose}")

    def _up(self) -> None:
        self._project.run("up", "--detach", seconds=_START_SECONDS)
        wait_until(self._all_healthy, seconds=_START_SECONDS, what="every container healthy")

    def _all_healthy(self) -> bool:
        return all(self._project.state(name).is_healthy for name in (*_OURS, "postgres", "nats", "valkey"))

    def _images(self) -> None:
        self._report.item(f"base images: {_origin(_BASE, 'postgres:18-bookworm')}")
        base_mib = _size_mib(_BASE)
        rows = []
        for service in ("wallet", "orders", "payments", "gateway", "tools"):
            image = f"aishop/{service}:{_VERSION}"
            inside = docker(
                "run", "--rm", "--network=none", "--read-only", image, "python", "-c", _LOOK_AROUND
            )
            rows.append((f"`{image}`", f"{_size_mib(image) - base_mib:.0f} MiB", inside.strip()))
        self._report.table(("image", f"on top of its base ({base_mib:.0f} MiB)", "seen from inside"), rows)

    def _doors(self) -> None:
        self._report.section("Who gets in")
        rows = [(door.what, f"`{knock(self._project, door)}`") for door in DOORS]
        self._report.table(("from the gateway's container to wallet", "answer"), rows)

    def _buy(self) -> None:
        self._report.section("Buying")
        shopper = Shopper(self, email="ada@example.com")
        try:
            self._step("550 points bought on the hosted page and arrived", lambda: _buy_points(shopper))
            bought = self._step("an image bought with points", lambda: _buy_with_points(shopper))
            self._step("and downloaded", lambda: _download(shopper, bought))
            self._step("an image bought by card, paid and completed", lambda: _buy_by_card(shopper))
            self._step("a mail for each order in the mailbox", lambda: _read_mails(shopper.email))
        finally:
            shopper.close()

    def _kill_while_buying(self) -> None:
        self._report.section("Killing containers while customers buy")
        self._report.paragraph(
            f"{_CUSTOMERS} customers buy without a pause. Each container's process gets SIGKILL once, and "
            "Docker starts it again by its restart policy; the customers repeat what was not answered, under "
            "its key."
        )
        with self._customers() as customers:
            rows = [(f"`{name}`", f"{self._kill(name):.1f} s") for name in _KILLED]
        self._report.table(("killed", "healthy again after"), rows)
        began = time.monotonic()
        for customer in customers:
            customer.settle()
            customer.close()
        settled = time.monotonic() - began
        counts = sum((customer.counts for customer in customers), Counter[str]())
        assert counts["orders completed"] == counts["orders with points"] + counts["orders by card"]
        assert counts["requests repeated"] > 0, "no customer noticed that anything was killed"
        self._report.table(("what", "how many"), sorted(counts.items()))
        self._report.paragraph(
            f"Every acknowledged order exists and is completed, {settled:.1f} s after the last purchase."
        )

    def _kill(self, name: str) -> float:
        self._console.print(f"killing {name}")
        before = self._project.kill(name, with_image=f"aishop/tools:{_VERSION}")
        began = time.monotonic()
        wait_until(
            lambda: self._project.has_restarted(name, before),
            seconds=_BACK_SECONDS,
            what=f"{name} healthy again",
        )
        took = time.monotonic() - began
        time.sleep(_BREATH_SECONDS)
        return took

    @contextmanager
    def _customers(self) -> Iterator[list[Customer]]:
        stop = threading.Event()
        customers = [
            Customer(
                gateway_url=self.gateway_url, auth_jwt_secret=self._secret, email=f"buyer{number}@example.com"
            )
            for number in range(_CUSTOMERS)
        ]
        threads = [threading.Thread(target=each.buy_until, args=(stop,), daemon=True) for each in customers]
        for thread in threads:
            thread.start()
        try:
            yield customers
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        for customer in customers:
            if customer.failure:
                raise customer.failure

    def _audit(self) -> None:
        self._report.section("Audit")
        self._report.output(self._project.run("run", "--rm", "-T", "audit"))

    def _lose_and_restore(self) -> None:
        self._report.section("Losing the databases and the broker")
        self._report.paragraph(
            f"{_CUSTOMERS} customers buy; a backup is taken meanwhile; they go on buying. Then the volumes "
            "of Postgres and NATS are destroyed, and the shop comes back as [backup.md](backup.md) says."
        )
        with tempfile.TemporaryDirectory(prefix="aishop-backup-") as folder:
            backup = Path(folder) / "shop.tar"
            with self._customers() as customers:
                wait_until(
                    lambda: all(len(each.promised) > 1 for each in customers),
                    seconds=_BACK_SECONDS,
                    what="some orders before the backup",
                )
                kept = [(each, list(each.promised)) for each in customers]
                since = datetime.now(UTC)
                self._step("backup taken", lambda: disaster.back_up(self._project, backup))
                time.sleep(_BREATH_SECONDS)
            for customer in customers:
                customer.settle()
            self._step("volumes of Postgres and NATS destroyed", lambda: disaster.lose(self._project))
            self._step("backup unpacked", lambda: disaster.restore(self._project, backup))
        self._step("`up`: every container healthy", self._up)
        self._step("facts published again", lambda: disaster.republish(self._project, since))
        self._reconcile(since)
        self._judge(kept)
        self._report.output(self._project.run("run", "--rm", "-T", "audit"))

    def _reconcile(self, since: datetime) -> None:
        token = tokens.mint(secret=self._secret, user_id=uuid4(), email=None, operator=True, ttl_seconds=3600)
        command = [sys.executable, "-m", "deploy.local.cli", "reconcile", "--since", since.isoformat()]
        told = self._step(
            "compared with Stripe",
            lambda: subprocess.check_output(
                command,
                env=os.environ | {"AISHOP_URL": self.gateway_url, "AISHOP_TOKEN": token},
                text=True,
                timeout=_BACK_SECONDS,
                cwd=ROOT,
            ),
        )
        self._report.output(told)

    def _judge(self, kept: Sequence[tuple[Customer, list[str]]]) -> None:
        """Orders of before the backup are there and completed; of later ones the shop knows nothing."""
        lost = sum(len(customer.promised) - len(promised) for customer, promised in kept)
        for customer, promised in kept:
            customer.promised = promised
            customer.settle()
            customer.close()
        found = sum(len(promised) for _, promised in kept)
        self._report.item(f"orders of before the backup: {found}, all completed")
        self._report.item(
            f"orders of after it: {lost}, lost with the databases; what Stripe was paid for them is in "
            "quarantine, for an operator to refund"
        )

    def _stop(self) -> None:
        self._report.section("Stopping")
        self._step("`stop`: SIGTERM, drained", lambda: self._project.run("stop", seconds=180))
        codes = {name: self._project.state(name).exit_code for name in (*_OURS, "nats", "postgres", "valkey")}
        assert all(codes[name] == 0 for name in _OURS), codes
        self._report.item(f"exit codes: {', '.join(f'{name} {code}' for name, code in codes.items())}")

    def _not_covered(self) -> None:
        self._report.section("What this does not cover")
        for item in (
            "The profile `observability`: its files are checked, Prometheus and Grafana were not started.",
            "Power loss: SIGKILL leaves the page cache, so that fsync is not proved by it.",
            "Stripe itself: the sandbox stands in. Real mail: the mailbox stands in.",
            "Stand-ins for public base images, where this page says so: they are the same "
            "servers from Debian's and PyPI's packages, packaged otherwise.",
        ):
            self._report.item(item)

    def _step(self, what: str, act: Callable[[], Answer]) -> Answer:
        self._console.print(what)
        began = time.monotonic()
        answer = act()
        self._report.item(f"{what}: {time.monotonic() - began:.1f} s")
        return answer


# The user, whether the file system can be written to, and what a compiler or installer would be.
_LOOK_AROUND = """
import os, shutil
found = [name for name in ("gcc", "cc", "make", "pip", "pip3", "git", "curl") if shutil.which(name)]
try:
    open("/app/x", "w")
    root = "writable"
except OSError:
    root = "read-only"
print(f"uid {os.getuid()}, {root}, tools to build or fetch with: {', '.join(found) or 'none'}")
"""


def _buy_points(shopper: Shopper) -> None:
    checkout = shopper.post("/api/checkout/points", {"packageId": "premium"})
    shopper.pay(checkout["url"])
    wait_until(lambda: shopper.get("/api/profile")["points"] == 550, seconds=30, what="points")


def _buy_with_points(shopper: Shopper) -> str:
    order = shopper.post("/api/checkout", {"paymentMethod": "points", "items": [_cheapest(shopper)]})
    assert order["status"] == "completed", order
    return str(order["orderId"])


def _download(shopper: Shopper, order_id: str) -> None:
    [image] = shopper.get(f"/api/orders/{order_id}/downloads")["items"]
    media_type, content = shopper.download(image["url"])
    assert media_type.startswith("image/"), media_type
    assert content, "an empty picture"


def _buy_by_card(shopper: Shopper) -> None:
    order = shopper.post("/api/checkout", {"paymentMethod": "stripe", "items": [_cheapest(shopper)]})
    shopper.pay(order["url"])
    path = f"/api/orders/{order['orderId']}"
    wait_until(lambda: shopper.get(path)["status"] == "completed", seconds=30, what="the card order")


def _cheapest(shopper: Shopper) -> dict[str, object]:
    items = [item for item in shopper.get("/api/products")["items"] if item["pricePoints"]]
    return {"productId": min(items, key=lambda item: item["pricePoints"])["id"], "quantity": 1}


def _read_mails(to: str) -> None:
    url = f"http://127.0.0.1:{_PORTS['MAILBOX_PORT']}/api/messages"

    def all_came() -> bool:
        return len(httpx.get(url, params={"to": to}, trust_env=False).json()["items"]) == 2

    wait_until(all_came, seconds=60, what="a receipt with the way to the picture, for both orders")


def _origin(*images: str) -> str:
    """Only an image that came from a registry has a digest there."""
    digests = [
        docker("image", "inspect", "--format", "{{len .RepoDigests}}", image).strip() for image in images
    ]
    return "built here as stand-ins for the public ones" if "0" in digests else "as published"


def _size_mib(image: str) -> float:
    return int(docker("image", "inspect", "--format", "{{.Size}}", image)) / 2**20


def _git(*arguments: str) -> str:
    return subprocess.check_output(["git", *arguments], cwd=ROOT, text=True).strip()


def main() -> int:
    """0 when everything held, and the report is written then only."""
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="aishop-compose-") as folder:
        env_file = Path(folder) / "env"
        environment.write(env_file)
        written = dict(line.split("=", 1) for line in env_file.read_text().splitlines() if line[:1].isalpha())
        variables = {name: str(port) for name, port in _PORTS.items()} | {
            "COMPOSE_PROFILES": "sandbox",
            "AISHOP_VERSION": _VERSION,
            "AISHOP_REVISION": _git("rev-parse", "HEAD"),
            "SHOP_URL": f"http://127.0.0.1:{_PORTS['GATEWAY_PORT']}",
        }
        project = Project(_PROJECT, env_file, variables)
        # What a trial that was cut off left behind has other passwords.
        _take_down(project)
        try:
            report = Trial(project, written["AUTH_JWT_SECRET"], console).run()
        except BaseException:
            console.print(_last_words(project))
            raise
        finally:
            _take_down(project)
    _REPORT.write_text(report.text())
    console.print(f"all held; wrote {_REPORT.relative_to(ROOT)}")
    return 0


def _take_down(project: Project) -> None:
    project.run("down", "--volumes", "--remove-orphans", seconds=300)


def _last_words(project: Project) -> str:
    try:
        return project.run("ps") + project.run("logs", "--no-color", "--tail=40")
    except DockerError as error:
        return str(error)


if __name__ == "__main__":
    sys.exit(main())
