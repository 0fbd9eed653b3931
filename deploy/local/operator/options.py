"""What several commands take."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

Data = Annotated[
    Path | None,
    typer.Option("--data", help="A local stack's data folder, instead of AISHOP_URL.", file_okay=False),
]
Stack = Annotated[
    Path | None, typer.Option("--stack", help="A stack.json, instead of a data folder.", dir_okay=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="The answer as JSON, and nothing else.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the audit log.")]
Limit = Annotated[int, typer.Option("--limit", help="How many at most, the newest first.", min=1, max=10_000)]
_NUMBER = re.compile("[0-9a-f]{12}")


def _order(text: str) -> str:
    """An id, or a number; which order that is, the gateway knows (client.py)."""
    given = text.strip().lower()
    if _NUMBER.fullmatch(given):
        return given
    try:
        return str(UUID(given))
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is neither an order's id nor the 12 digits that mails print"
        ) from error


_ORDER_HELP = "An order's id, or its number as mails print it."
Order = Annotated[str, typer.Argument(metavar="ORDER", parser=_order, help=_ORDER_HELP)]
OrderOption = Annotated[str | None, typer.Option("--order", metavar="ORDER", parser=_order, help=_ORDER_HELP)]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION = re.compile(f"([0-9]{{1,9}})([{''.join(_UNITS)}])")


def moment_of(text: str, *, now: datetime) -> datetime:
    """An ISO time, this machine's when it has no offset; or so long before now: 90s, 30m, 2h, 7d, 1w.
    ValueError and OverflowError for anything else."""
    if found := _DURATION.fullmatch(text.strip()):
        return now - timedelta(**{_UNITS[found[2]]: int(found[1])})
    return datetime.fromisoformat(text.strip()).astimezone(UTC)


def _since(text: str) -> str:
    try:
        return moment_of(text, now=datetime.now(UTC)).isoformat()
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(
            f"{text!r} is neither a time (2026-07-04T12:30Z) nor a duration (30m, 2h, 7d)"
        ) from error


# A command gets it as the gateway takes it.
Since = Annotated[
    str | None,
    typer.Option(
        "--since", parser=_since, metavar="TIME", help="A time (2026-07-04T12:30Z), or so long ago (2h, 7d)."
    ),
]
