"""Secrets in the repository: `python -m deploy.secret_scan`, exit 1 with a line for each that is not known.

Looks at every line that a file has now, or had in any commit: what was pushed once is known to the world, and
stays so when the next commit takes it back. `.secrets.baseline` (detect-secrets' own format) has the hashes
of what somebody looked at, and is none: examples, and keys of tests. `--accept` writes it anew with all there
is.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from detect_secrets.core import baseline
from detect_secrets.core.potential_secret import PotentialSecret
from detect_secrets.core.scan import scan_file
from detect_secrets.core.secrets_collection import SecretsCollection
from detect_secrets.settings import default_settings

BASELINE = ".secrets.baseline"
# Hashes, generated stubs, and what others made.
_NOT_OURS = (".lock", "_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi", ".binpb", BASELINE)
_VENDORED = "gateway/web/swagger-ui/"
# Kubernetes: what a Secret is called is none.
_NAME = re.compile(rb"\bsecretName: *[a-z0-9.-]+")


def findings(root: Path) -> list[PotentialSecret]:
    """What looks like a secret, with the path that it has or had."""
    with tempfile.TemporaryDirectory() as folder:
        paths = list(_written(_lines(root), Path(folder)))
        spawn = get_context("spawn")
        with ProcessPoolExecutor(mp_context=spawn, initializer=os.chdir, initargs=(folder,)) as pool:
            found = [secret for secrets in pool.map(_scan, paths, chunksize=8) for secret in secrets]
    return sorted(found, key=lambda secret: (secret.filename, secret.line_number, secret.type))


def unknown(found: Iterable[PotentialSecret], root: Path) -> list[PotentialSecret]:
    """Those that the baseline does not have, in whatever file."""
    path = root / BASELINE
    results: dict[str, Any] = json.loads(path.read_text())["results"] if path.exists() else {}
    known = {secret["hashed_secret"] for secrets in results.values() for secret in secrets}
    return [secret for secret in found if secret.secret_hash not in known]


def accept(found: Iterable[PotentialSecret], root: Path) -> None:
    """Makes them the baseline."""
    collection = SecretsCollection()
    for secret in found:
        collection[secret.filename].add(secret)
    with default_settings():
        baseline.save_to_file(collection, str(root / BASELINE))


def _scan(path: str) -> list[PotentialSecret]:
    # The default filters ask nobody whether a key is one.
    with default_settings():
        return list(scan_file(path))


def _written(lines: Mapping[str, Iterable[bytes]], folder: Path) -> Iterator[str]:
    """A file for each path, with all its lines; the paths."""
    for path, all_lines in lines.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"\n".join(all_lines))
        yield path


def _lines(root: Path) -> dict[str, dict[bytes, None]]:
    """By path, each line once, in the order in which they came up: those of today first."""
    lines: dict[str, dict[bytes, None]] = {}
    for path, content in (*_of_today(root), *_of_history(root)):
        if not path.endswith(_NOT_OURS) and not path.startswith(_VENDORED) and b"\0" not in content:
            lines.setdefault(path, {}).update(dict.fromkeys(_NAME.sub(b"", content).splitlines()))
    return lines


def _of_today(root: Path) -> Iterator[tuple[str, bytes]]:
    for path in _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split(b"\0"):
        file = root / os.fsdecode(path)
        if path and file.is_file():
            yield os.fsdecode(path), file.read_bytes()


def _of_history(root: Path) -> Iterator[tuple[str, bytes]]:
    """Every version of every file that a commit of this clone can name."""
    listed = [line.partition(b" ") for line in _git(root, "rev-list", "--objects", "--all").splitlines()]
    paths = {name: os.fsdecode(path) for name, _, path in listed if path}
    told = _git(root, "cat-file", "--batch", stdin=b"\n".join(paths))
    at = 0
    while at < len(told):
        begin = told.index(b"\n", at) + 1
        name, kind, size = told[at:begin].split()
        if kind == b"blob":
            yield paths[name], told[begin : begin + int(size)]
        at = begin + int(size) + 1


def _git(root: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    return subprocess.run(["git", *arguments], cwd=root, input=stdin, capture_output=True, check=True).stdout


def main(arguments: list[str], root: Path) -> int:
    found = findings(root)
    if arguments == ["--accept"]:
        accept(found, root)
        return 0
    new = unknown(found, root)
    for secret in new:
        print(f"{secret.filename}: {secret.type} (hash {secret.secret_hash[:12]})")
    print(f"{len(new)} unknown, {len(found) - len(new)} in {BASELINE}")
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path.cwd()))
