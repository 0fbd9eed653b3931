"""What the commands print: for people on a terminal, for `grep` in a pipe, as JSON for programs."""

import json
import sys
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

# In a pipe there is no edge: an id that is folded cannot be found.
_PIPE_WIDTH = 1000

# No markup: what the shop tells is printed as it is.
out = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
err = Console(highlight=False, markup=False, stderr=True, soft_wrap=True)


def print_json(document: object) -> None:
    """ASCII: what came from outside cannot speak to the terminal."""
    out.print(json.dumps(document, indent=2), soft_wrap=True)


def print_table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    table = Table(*columns)
    for column in table.columns:
        column.overflow = "fold"
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    out.print(table)


def time_cell(moment: str | None) -> str:
    """To the second, UTC as the gateway tells it."""
    return f"{moment[:19].replace('T', ' ')}Z" if moment else ""


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return "".join(character if character.isprintable() else "?" for character in text)
