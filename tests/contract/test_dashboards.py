"""The dashboards' files are what deploy/dashboards.py says."""

import json
from itertools import combinations
from typing import Any

import pytest

from deploy import dashboards


@pytest.mark.parametrize("name", sorted(dashboards.FILES))
def test_a_dashboard_is_generated(name: str) -> None:
    """Else: `python -m deploy.dashboards`."""
    written = (dashboards.FOLDER / name).read_text()
    assert written == dashboards.as_json(dashboards.FILES[name]) + "\n"


def test_no_other_dashboard_is_there() -> None:
    assert {file.name for file in dashboards.FOLDER.iterdir()} == set(dashboards.FILES)


@pytest.mark.parametrize("name", sorted(dashboards.FILES))
def test_panels_lie_beside_each_other(name: str) -> None:
    panels = json.loads(dashboards.as_json(dashboards.FILES[name]))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations(panels, 2):
        assert _apart(one["gridPos"], other["gridPos"]), (one["title"], other["title"])
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


def _apart(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return any(
        a[start] + a[size] <= b[start]
        for a, b in ((one, other), (other, one))
        for start, size in (("x", "w"), ("y", "h"))
    )
