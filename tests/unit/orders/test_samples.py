"""The sample pictures, and the keys of the asset store."""

import io

import pytest
from PIL import Image

from services.orders.pictures import draw
from services.orders.rules import is_asset_key


def test_a_picture_is_the_same_png_each_time_and_no_other_one() -> None:
    picture = draw("Harbour at Dawn", 1)
    assert picture == draw("Harbour at Dawn", 1)
    assert picture != draw("Harbour at Dawn", 2)
    with Image.open(io.BytesIO(picture)) as opened:
        assert (opened.format, opened.size) == ("PNG", (960, 640))
    assert len(picture) < 100_000


@pytest.mark.parametrize("key", ["a", "samples/01.png", "A-b_c.d/e.f"])
def test_a_key_names_a_file(key: str) -> None:
    assert is_asset_key(key)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "..",
        "a/..",
        "../a",
        "a/../b",
        ".a",
        "a/.b",
        "a b",
        "a\\b",
        "a\0",
        "a\n",
        "é",
        "a" * 256,
    ],
)
def test_a_key_leads_nowhere_else(key: str) -> None:
    assert not is_asset_key(key)
