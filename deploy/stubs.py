"""Generates the Python stubs beside their protos: `python -m deploy.stubs [--check]`.

The include root is the import root, so nothing is rewritten after generation. With `--check` the
stubs are generated into a scratch folder and compared, so that a stale one fails `make lint`.
"""

import filecmp
import os
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent


def generate(out: Path) -> list[Path]:
    """Writes every stub under `out` and returns their paths relative to it."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    protos = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("protos/*/v1/*.proto"))
    bundled = Path(protoc.__file__).parent / "_proto"
    plugins = [f"--{name}_out={out}" for name in ("python", "grpc_python", "mypy", "mypy_grpc")]
    if protoc.main(["protoc", "-I.", f"-I{bundled}", *plugins, *protos]) != 0:
        sys.exit("protoc failed")
    return sorted(path.relative_to(out) for path in out.glob("protos/*/v1/*_pb2*.py*"))


def check() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        fresh = generate(Path(scratch))
        stale = [
            str(path)
            for path in fresh
            if not (ROOT / path).exists() or not filecmp.cmp(ROOT / path, Path(scratch) / path, shallow=False)
        ]
    if stale:
        sys.stderr.write(f"stale stubs, run `make protos`: {', '.join(stale)}\n")
    return 1 if stale else 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(check() if "--check" in sys.argv else len(generate(ROOT)) == 0)
