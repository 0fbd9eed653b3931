"""What an operator may not ask of analytics and audit log, and what is heard when a service is away."""

import httpx
import pytest

from tests.unit.gateway.conftest import TokenMaker

ANALYTICS, AUDIT = "/api/admin/analytics", "/api/admin/audit"


@pytest.fixture
def operator(make_token: TokenMaker) -> dict[str, str]:
    return {"Authorization": f"Bearer {make_token(app_metadata={'role': 'operator'})}"}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("from=yesterday", "from"),
        ("from=2026-07-01", "from"),
        ("from=2026-07-01T00:00:00", "from"),
        ("to=", "to"),
        ("to=1969-12-31T23:59:59Z", "to"),
        ("to=9999-01-01T00:00:00Z", "to"),
        ("from=2026-07-01T00:00:00Z&to=2026-07-01T00:00:00Z", "to"),
        ("from=2026-07-02T00:00:00Z&to=2026-07-01T00:00:00Z", "to"),
        # The same moment.
        ("from=2026-07-01T02:00:00%2B02:00&to=2026-07-01T00:00:00Z", "to"),
        ("from=2025-01-01T00:00:00Z&to=2026-01-02T00:00:01Z", "to"),
        ("from=2970-01-01T00:00:00Z", "to"),
        ("from=2020-01-01T00:00:00Z", "to"),
    ],
)
async def test_what_is_no_range_names_its_field(
    client: httpx.AsyncClient, operator: dict[str, str], query: str, field: str
) -> None:
    answer = await client.get(f"{ANALYTICS}?{query}", headers=operator)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert [error["field"] for error in answer.json()["errors"]] == [field]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        *((f"limit={limit}", "invalid_limit") for limit in ("0", "101", "-1", "x")),
        # "7", "7|7", "7|7|7|7", "a|b|c", 2**63 in the first place, and what is no base64.
        *(
            (f"cursor={cursor}", "invalid_cursor")
            for cursor in ("Nw", "N3w3", "N3w3fDd8Nw", "YXxifGM", "OTIyMzM3MjAzNjg1NDc3NTgwOHwxfDE", "%C3%A9")
        ),
        (f"actor={'x' * 256}", "invalid_request"),
        (f"subject={'x' * 256}", "invalid_request"),
    ],
)
async def test_what_is_no_page_of_the_audit_log_is_refused(
    client: httpx.AsyncClient, operator: dict[str, str], query: str, code: str
) -> None:
    answer = await client.get(f"{AUDIT}?{query}", headers=operator)
    assert (answer.status_code, answer.json()["code"]) == (422, code)


# The second one is of 366 days.
@pytest.mark.parametrize(
    "path", [ANALYTICS, f"{ANALYTICS}?from=2026-01-01T00:00:00Z&to=2027-01-02T00:00:00Z", AUDIT]
)
async def test_with_a_service_away_there_is_no_half_of_an_answer(
    client: httpx.AsyncClient, operator: dict[str, str], path: str
) -> None:
    answer = await client.get(path, headers=operator)
    assert (answer.status_code, answer.json()["code"]) == (503, "service_unavailable")
    assert answer.headers["Retry-After"]


@pytest.mark.parametrize("path", [ANALYTICS, AUDIT])
async def test_neither_is_for_customers(
    client: httpx.AsyncClient, signed_in: dict[str, str], path: str
) -> None:
    answer = await client.get(f"{path}?limit=x&from=x", headers=signed_in)
    assert (answer.status_code, answer.json()["code"]) == (403, "operator_only")
    stranger = await client.get(path)
    assert (stranger.status_code, stranger.json()["code"]) == (401, "missing_token")
