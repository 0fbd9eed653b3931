"""What kustomize makes of an overlay, as `kubectl apply -k` would send it."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from deploy.local.parts import ROOT

FOLDER = ROOT / "deploy/k8s"
OVERLAYS = ("dev", "production")
# In the order in which they are applied.
STEPS = ("foundation", "jobs", "shop")

Manifest = dict[str, Any]


def render(overlay: str, step: str) -> list[Manifest]:
    """RuntimeError says what kubectl said, or how to get it."""
    folder = FOLDER / "overlays" / overlay / step
    command = [_kubectl(), "kustomize", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"kubectl kustomize {folder}: {result.stderr.strip()}")
    return list(yaml.safe_load_all(result.stdout))


def _kubectl() -> str:
    ours = Path(sys.executable).parent / "kubectl"
    found = str(ours) if ours.exists() else shutil.which("kubectl")
    if found is None:
        raise RuntimeError(
            "kubectl is missing: `make setup` brings it on Linux, elsewhere install it yourself"
        )
    return found
