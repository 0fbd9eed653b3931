"""What a release promises to later ones: `make release` writes `released/<version>/`, and lint compares
today's contracts with the newest one.

A folder holds `protos.binpb` (`buf build`), `openapi.json` and `migrations.json` (the newest revision of each
database: what comes later meets processes of that release). It is written once: a release that is out does
not change.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

from gateway.app import create_api
from gateway.backends import connect
from gateway.settings import GatewaySettings
from services.chassis.version import VERSION

_ROOT = Path(__file__).resolve().parent.parent
RELEASED = _ROOT / "released"
_CHANGELOG = _ROOT / "CHANGELOG.md"
_SERVICES = ("wallet", "orders", "payments")


def newest() -> Path:
    """The folder of the newest release."""
    return max((folder for folder in RELEASED.iterdir() if folder.is_dir()), key=_numbers)


def _numbers(folder: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in folder.name.split("."))


def document() -> dict[str, object]:
    """The OpenAPI document of this code; nobody is called for it."""
    return asyncio.run(_document())


async def _document() -> dict[str, object]:
    nowhere = "127.0.0.1:1"
    settings = GatewaySettings(
        listen=nowhere,
        wallet_target=nowhere,
        orders_target=nowhere,
        payments_target=nowhere,
        auth_jwt_secret="no token is ever read with this one",  # noqa: S106 - and no request is ever answered
    )
    async with connect(settings) as backends:
        return create_api(settings, backends).openapi()


def newest_revision(service: str) -> str:
    """The last migration of a database."""
    config = Config()
    config.set_main_option("script_location", str(_ROOT / "services" / service / "migrations"))
    revision = ScriptDirectory.from_config(config).get_current_head()
    assert revision is not None, "each service has migrations"
    return revision


def complaints() -> list[str]:
    """What a release of this version still lacks, or promises twice."""
    found = []
    if f"\n## {VERSION} " not in _CHANGELOG.read_text():
        found.append(f"CHANGELOG.md has no entry `## {VERSION} - <date>`")
    if not (RELEASED / VERSION).is_dir():
        found.append(f"released/{VERSION}/ is missing: `make release` writes it")
    return found


def main(arguments: list[str]) -> int:
    """`--check` complains; `--newest` prints the newest release's folder; without a word a release is cut."""
    if arguments == ["--newest"]:
        print(newest().relative_to(_ROOT))
        return 0
    if arguments == ["--check"]:
        for complaint in complaints():
            print(complaint, file=sys.stderr)
        return 1 if complaints() else 0
    folder = RELEASED / VERSION
    if folder.exists():
        print(f"{VERSION} is out: raise VERSION in services/chassis/version.py", file=sys.stderr)
        return 1
    folder.mkdir(parents=True)
    buf = Path(sys.executable).parent / "buf"
    subprocess.run([buf, "build", "-o", folder / "protos.binpb"], cwd=_ROOT, check=True)
    (folder / "openapi.json").write_text(json.dumps(document(), indent=1, sort_keys=True) + "\n")
    revisions = {service: newest_revision(service) for service in _SERVICES}
    (folder / "migrations.json").write_text(json.dumps(revisions, indent=1) + "\n")
    print(f"released/{VERSION}/ is written: commit it, with its entry in CHANGELOG.md")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
