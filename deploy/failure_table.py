"""Whether every test that the documents name exists: `python -m deploy.failure_table`, by `make lint`.

docs/failures.md and docs/guarantees.md name tests as `path` or `path::name`. A row of docs/failures.md that
names none must say with which issue it is mended (`with 4/6`).
"""

import ast
import re
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_NAMED = re.compile(r"`(tests/[\w./]*)(?:::(\w+))?`")
_ROW = re.compile(r"\| ?([A-Z]\d+)°? \|")
_LATER = re.compile(r"with \d/6")


def missing_tests(text: str) -> list[str]:
    """The tests that `text` names and the repository does not have."""
    return [
        f"{path}::{name}" if name else path
        for path, name in _NAMED.findall(text)
        if not _exists(_ROOT / path, name)
    ]


def _exists(path: Path, name: str) -> bool:
    if not name:
        return path.exists()
    if not path.is_file():
        return False
    defined = ast.walk(ast.parse(path.read_text()))
    return any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name for node in defined
    )


def unproven_rows(table: str) -> list[str]:
    """The ids of rows whose last column names no test and no later issue."""
    rows = [_cells(line) for line in table.splitlines() if _ROW.match(line)]
    return [cells[0].rstrip("°") for cells in rows if not _is_proven(cells[-1])]


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)][1:-1]


def _is_proven(cell: str) -> bool:
    return bool(_NAMED.search(cell) or _LATER.search(cell))


def main() -> int:
    found = []
    for name in ("failures.md", "guarantees.md"):
        found += [f"docs/{name} names {test}, which is not there" for test in missing_tests(_read(name))]
    found += [f"docs/failures.md: {row} names no test" for row in unproven_rows(_read("failures.md"))]
    for complaint in found:
        print(complaint, file=sys.stderr)
    return 1 if found else 0


def _read(name: str) -> str:
    return (_ROOT / "docs" / name).read_text()


if __name__ == "__main__":
    sys.exit(main())
