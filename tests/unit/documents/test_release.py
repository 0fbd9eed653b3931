"""What a release folder holds, and that today's contracts keep what the newest one promised."""

import json
from pathlib import Path

import pytest

from deploy import release
from services.chassis.version import VERSION


def test_the_newest_release_is_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("0.9.0", "0.10.0", "0.2.0"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(release, "RELEASED", tmp_path)
    assert release.newest().name == "0.10.0"


def test_no_route_or_answer_of_the_newest_release_is_gone() -> None:
    released = json.loads((release.newest() / "openapi.json").read_text())
    today = release.document()
    for path, methods in released["paths"].items():
        for method, operation in methods.items():
            now = today["paths"][path][method]  # type: ignore[index]
            assert set(operation["responses"]) <= set(now["responses"]), f"{method} {path}"


def test_the_document_tells_the_version() -> None:
    assert release.document()["info"]["version"] == VERSION  # type: ignore[index]
