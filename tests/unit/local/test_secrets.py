"""A stack's secrets, kept in its data folder."""

import json
import stat
from pathlib import Path

from deploy.local.secret_store import load_or_draw


def test_secrets_stay_and_those_of_a_newer_version_are_drawn(tmp_path: Path) -> None:
    first = load_or_draw(tmp_path)
    assert load_or_draw(tmp_path) == first
    file = tmp_path / "secrets.json"
    older = json.loads(file.read_text())
    del older["valkey_password"]
    file.write_text(json.dumps(older))
    mended = load_or_draw(tmp_path)
    assert mended.model_dump(exclude={"valkey_password"}) == older
    assert mended.valkey_password not in (first.valkey_password, "")
    assert load_or_draw(tmp_path) == mended
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
