"""What a download's answer says of its file."""

import httpx
import pytest

from gateway.routes.downloads import disposition


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("Sea.png", "attachment; filename=\"Sea.png\"; filename*=UTF-8''Sea.png"),
        ("A b.png", "attachment; filename=\"A b.png\"; filename*=UTF-8''A%20b.png"),
        ("Mür.png", "attachment; filename=\"M_r.png\"; filename*=UTF-8''M%C3%BCr.png"),
        ('x"; y=".png', "attachment; filename=\"x_ y_.png\"; filename*=UTF-8''x%22%3B%20y%3D%22.png"),
        ("a\r\nX: y", "attachment; filename=\"a_X_ y\"; filename*=UTF-8''a%0D%0AX%3A%20y"),
        ("../a\\b", "attachment; filename=\".._a_b\"; filename*=UTF-8''..%2Fa%5Cb"),
    ],
)
def test_a_file_is_an_attachment_under_its_name_and_adds_no_header(name: str, header: str) -> None:
    assert disposition(name) == header


@pytest.mark.parametrize("token", ["ü", "a.b", "x" * 513, "a%2Fb", "a%0d%0a"])
async def test_what_cannot_be_a_link_is_not_found_before_orders_is_asked(
    client: httpx.AsyncClient, signed_in: dict[str, str], token: str
) -> None:
    answer = await client.get(f"/api/downloads/{token}", headers=signed_in)
    assert answer.status_code == 404
    assert answer.json()["code"] in ("download_not_found", "route_not_found")


async def test_a_stranger_hears_401_whatever_the_link(client: httpx.AsyncClient) -> None:
    for token in ("ü", "abc"):
        answer = await client.get(f"/api/downloads/{token}")
        assert (answer.status_code, answer.json()["code"]) == (401, "missing_token")


async def test_a_file_cannot_be_looked_at_without_being_counted(
    client: httpx.AsyncClient, signed_in: dict[str, str]
) -> None:
    answer = await client.head("/api/downloads/abc", headers=signed_in)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")
