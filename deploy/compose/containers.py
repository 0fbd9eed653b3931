"""A project of docker-compose.yml: its commands, its containers, and the sudden end of one of them."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from deploy.local.parts import ROOT

_KILL = "import os, signal, sys; os.kill(int(sys.argv[1]), signal.SIGKILL)"


class DockerError(RuntimeError):
    """A command of Docker failed; the text is what it said."""


@dataclass(frozen=True)
class State:
    """What Docker says of a container."""

    container: str
    pid: int
    started_at: str
    health: str
    exit_code: int

    @property
    def is_healthy(self) -> bool:
        return self.pid > 0 and self.health == "healthy"


class Project:
    """One project of the file, with its secrets and ports."""

    def __init__(self, name: str, env_file: Path, variables: Mapping[str, str]) -> None:
        self.name = name
        self._command = [
            *_compose(),
            *("--project-name", name),
            *("--project-directory", str(ROOT)),
            *("--file", str(ROOT / "docker-compose.yml")),
            *("--env-file", str(env_file)),
        ]
        # A variable of the process beats the file.
        self._environment = os.environ | variables

    def run(self, *arguments: str, seconds: float = 120.0) -> str:
        """What a compose command printed; DockerError when it fails."""
        return _output([*self._command, *arguments], seconds=seconds, environment=self._environment)

    def save(self, into: Path, *arguments: str, seconds: float) -> None:
        """Keeps the bytes that a compose command prints; DockerError when it fails."""
        with into.open("wb") as file:
            _transfer([*self._command, *arguments], self._environment, seconds=seconds, stdout=file)

    def feed(self, source: Path, *arguments: str, seconds: float) -> None:
        """Gives a file to a compose command to read; DockerError when it fails."""
        with source.open("rb") as file:
            _transfer([*self._command, *arguments], self._environment, seconds=seconds, stdin=file)

    def state(self, service: str) -> State:
        """DockerError while the service has no container."""
        labels = {"project": self.name, "service": service}
        filters = [f"--filter=label=com.docker.compose.{key}={value}" for key, value in labels.items()]
        containers = docker("ps", "--all", "--quiet", *filters).split()
        if len(containers) != 1:
            raise DockerError(f"{service} has {len(containers)} containers")
        [found] = json.loads(docker("inspect", containers[0]))
        state: dict[str, Any] = found["State"]
        return State(
            container=containers[0],
            pid=state["Pid"],
            started_at=state["StartedAt"],
            health=state.get("Health", {}).get("Status", "none"),
            exit_code=state["ExitCode"],
        )

    def kill(self, service: str, *, with_image: str) -> State:
        """SIGKILL for the container's process, as a crash; returns what it was.

        Not `docker kill`: Docker takes that for a wish, and starts the container no more.
        """
        before = self.state(service)
        docker(
            *("run", "--rm", "--pid=host", "--user=0", "--network=none", "--cap-drop=ALL", "--cap-add=KILL"),
            *(with_image, "python", "-c", _KILL, str(before.pid)),
        )
        return before

    def has_restarted(self, service: str, before: State) -> bool:
        now = self.state(service)
        return now.is_healthy and now.started_at != before.started_at


def docker(*arguments: str, seconds: float = 120.0) -> str:
    """What a docker command printed; DockerError when it fails."""
    return _output(["docker", *arguments], seconds=seconds, environment=os.environ)


def _compose() -> list[str]:
    """`docker compose`, or the older `docker-compose`."""
    known = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if known.returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise DockerError("neither `docker compose` nor docker-compose is installed")


def _transfer(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    seconds: float,
    stdin: BinaryIO | None = None,
    stdout: BinaryIO | None = None,
) -> None:
    ran = subprocess.run(
        command,
        stdin=stdin or subprocess.DEVNULL,
        stdout=stdout or subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        timeout=seconds,
        check=False,
        cwd=ROOT,
    )
    if ran.returncode != 0:
        raise DockerError(f"{' '.join(command[:6])} …: exit {ran.returncode}\n{ran.stderr.decode()}")


def _output(command: Sequence[str], *, seconds: float, environment: Mapping[str, str]) -> str:
    ran = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=seconds, check=False, cwd=ROOT
    )
    if ran.returncode != 0:
        raise DockerError(f"{' '.join(command[:6])} …: exit {ran.returncode}\n{ran.stdout}{ran.stderr}")
    return ran.stdout
