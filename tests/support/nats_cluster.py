"""Three NATS servers that keep JetStream's streams together."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local import ports
from deploy.local.parts import base_environment

NODES = ("n1", "n2", "n3")
_USER, _PASSWORD = "shop", "secret"
_BINARY = Path(sys.executable).parent / "nats-server"
_STOP_SECONDS = 20.0


class NatsCluster:
    """Each node with a store of its own, which survives its process."""

    def __init__(self, folder: Path, free: list[int]) -> None:
        """`free` are two ports for each node: for clients and for the other nodes."""
        self._folder = folder
        self._ports = dict(zip(NODES, free[:3], strict=True))
        self._routes = dict(zip(NODES, free[3:], strict=True))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """As services are told of it."""
        hosts = ",".join(f"{ports.HOST}:{port}" for port in self._ports.values())
        return f"nats://{_USER}:{_PASSWORD}@{hosts}"

    def node_url(self, node: str) -> str:
        return f"nats://{_USER}:{_PASSWORD}@{ports.HOST}:{self._ports[node]}"

    def start(self, node: str) -> None:
        routes = [f"nats-route://{ports.HOST}:{port}" for port in self._routes.values()]
        config = self._folder / f"{node}.conf"
        # What production sets: an acknowledged message is on the disks of a majority.
        config.write_text(
            f'server_name: {node}\nlisten: "{ports.HOST}:{self._ports[node]}"\n'
            f'jetstream {{ store_dir: "{self._folder / node}", sync_interval: always }}\n'
            f'cluster {{ name: shop, listen: "{ports.HOST}:{self._routes[node]}", routes: {routes} }}\n'
            f"authorization {{ user: {_USER}, password: {_PASSWORD} }}\n"
        )
        with (self._folder / f"{node}.log").open("ab") as log:
            self._processes[node] = subprocess.Popen(
                [str(_BINARY), "-c", str(config)], env=base_environment(), stdout=log, stderr=log
            )

    def kill(self, node: str) -> None:
        """SIGKILL."""
        self._processes[node].kill()
        self._processes[node].wait()

    def stop(self) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            process.wait(_STOP_SECONDS)


@contextmanager
def nats_cluster(folder: Path) -> Iterator[NatsCluster]:
    with ports.free_offset() as offset:
        cluster = NatsCluster(folder, list(ports.shifted(offset).values())[: 2 * len(NODES)])
        try:
            for node in NODES:
                cluster.start(node)
            yield cluster
        finally:
            cluster.stop()
