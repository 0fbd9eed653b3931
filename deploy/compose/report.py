"""A report in Markdown, a line at a time."""

from collections.abc import Sequence


class Report:
    """What was done and seen, in order."""

    def __init__(self, title: str) -> None:
        self._lines = [f"# {title}", ""]

    def section(self, title: str) -> None:
        self._lines += ["", f"## {title}", ""]

    def paragraph(self, text: str) -> None:
        self._lines += [text, ""]

    def item(self, text: str) -> None:
        self._lines.append(f"- {text}")

    def table(self, header: Sequence[object], rows: Sequence[Sequence[object]]) -> None:
        self._lines += ["", _row(header), _row(["---" for _ in header]), *(_row(row) for row in rows), ""]

    def output(self, text: str) -> None:
        self._lines += ["```", text.strip(), "```"]

    def text(self) -> str:
        """One blank line where there are several."""
        lines = [
            line for line, before in zip(self._lines, ["", *self._lines], strict=False) if line or before
        ]
        return "\n".join(lines).rstrip() + "\n"


def _row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"
