"""What a migration may not do to processes of the version before."""

import ast
from pathlib import Path

import pytest

from deploy.local.parts import ROOT
from deploy.migrations import complaints, main, released

_CREATE = "CREATE TABLE notes (id UUID PRIMARY KEY, body TEXT NOT NULL);"


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("ALTER TABLE orders DROP COLUMN currency;", "ban-drop-column"),
        ("DROP TABLE mails;", "ban-drop-table"),
        ("ALTER TABLE orders RENAME COLUMN status TO state;", "renaming-column"),
        ("ALTER TABLE orders RENAME TO purchases;", "renaming-table"),
        ("ALTER TABLE orders ALTER COLUMN status TYPE VARCHAR(9);", "changing-column-type"),
        ("ALTER TABLE orders ADD COLUMN note TEXT NOT NULL;", "adding-required-field"),
        ("ALTER TABLE orders ADD CONSTRAINT c CHECK (total_cents < 9);", "constraint-missing-not-valid"),
        ("CREATE INDEX i ON orders (status);", "require-concurrent-index-creation"),
    ],
)
def test_what_breaks_or_stops_the_version_before_is_found(statement: str, rule: str) -> None:
    assert rule in complaints(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "",
        _CREATE,
        f"BEGIN; {_CREATE} CREATE INDEX notes_body ON notes (body); COMMIT;",
        "ALTER TABLE orders ADD COLUMN note TEXT;",
        "ALTER TABLE orders ADD COLUMN note TEXT DEFAULT '' NOT NULL;",
        "ALTER TABLE orders ADD CONSTRAINT c CHECK (total_cents < 9) NOT VALID;",
        "BEGIN; COMMIT; CREATE INDEX CONCURRENTLY i ON orders (status); BEGIN; COMMIT;",
        "-- squawk-ignore ban-drop-column\nALTER TABLE orders DROP COLUMN currency;",
    ],
)
def test_what_adds_is_no_trouble(statement: str) -> None:
    assert complaints(statement) == ""


def test_ours_are_no_trouble() -> None:
    assert set(released()) == {"wallet", "orders", "payments"}
    assert main() == 0


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("services/*/migrations/versions/[0-9]*.py")), ids=lambda path: path.stem
)
def test_what_runs_outside_a_transaction_is_a_revision_of_its_own(path: Path) -> None:
    """Entering such a block commits what stands before it: broken off within, it would be done twice."""
    [upgrade] = [
        node
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == "upgrade"
    ]
    if "autocommit_block" in ast.unparse(upgrade):
        assert [type(statement) for statement in upgrade.body] == [ast.With]
