"""The check of the failure tables."""

from deploy.failure_table import missing_tests, unproven_rows

_HERE = "tests/unit/documents/test_failure_table.py"
_GONE = f"{_HERE[:-3]}_that_is_gone.py"


def test_a_proof_that_is_not_there_is_named() -> None:
    text = f"`{_HERE}` `{_HERE}::test_a_proof_that_is_not_there_is_named` `tests/unit/`"
    assert missing_tests(text) == []
    assert missing_tests(f"`{_HERE}::test_gone` `{_GONE}`") == [f"{_HERE}::test_gone", _GONE]


def test_a_row_without_a_proof_is_named_unless_a_later_issue_mends_it() -> None:
    table = """
| id | input | came | comes now | proven by |
|---|---|---|---|---|
| A1 | x | y | z | `tests/unit/` |
| A13° | x | y | z \\| with 5/6 |  |
| C2 | x | y | z | with 4/6 |
| D1 | x | y | `tests/unit/` | soon |
"""
    assert unproven_rows(table) == ["A13", "D1"]
