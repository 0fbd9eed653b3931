"""What most commands do: list something, or decide about one thing with a reason."""

from collections.abc import Callable
from pathlib import Path

from deploy.local.operator.client import JSON, gateway_of
from deploy.local.operator.screen import print_json

Printer = Callable[[list[JSON]], None]


def show_newest(
    path: str,
    printed: Printer,
    *,
    limit: int,
    as_json: bool,
    data: Path | None,
    stack: Path | None,
    **params: object,
) -> None:
    """The first `limit` items of a list."""
    with gateway_of(data, stack) as gateway:
        found = gateway.newest(path, limit=limit, **params)
    if as_json:
        print_json(found)
    else:
        printed(found)


def decide(
    path: str,
    reason: str,
    printed: Printer,
    *,
    as_json: bool,
    data: Path | None,
    stack: Path | None,
    **more: object,
) -> None:
    """Posts the reason and what else is said, and shows what it was about as it stands now."""
    said = {name: value for name, value in more.items() if value is not None}
    with gateway_of(data, stack) as gateway:
        decided = gateway.post(path, {"reason": reason} | said)
    if as_json:
        print_json(decided)
    else:
        printed([decided])
