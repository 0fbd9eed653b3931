"""How a letter looks: the same words as plain text and as HTML."""

from dataclasses import dataclass
from html import escape

# Mail programs know neither stylesheets nor variables: every style stands where it is used.
_PAGE = (
    '<!doctype html><html lang="en"><body style="margin:0;padding:24px;background:#f4f4f6;'
    'font-family:Helvetica,Arial,sans-serif;color:#1c1c22">'
    '<div style="max-width:520px;margin:0 auto;padding:32px;background:#ffffff;border-radius:12px">'
    '<p style="margin:0 0 24px;font-size:14px;letter-spacing:1px;color:#6b6b76">AI SHOP</p>{}</div>'
    "</body></html>"
)
_TITLE = '<h1 style="margin:0 0 16px;font-size:22px">{}</h1>'
_PARAGRAPH = '<p style="margin:0 0 16px;font-size:15px;line-height:1.5">{}</p>'
_ROW = (
    '<tr><td style="padding:6px 0;border-bottom:1px solid #ececf0">{}</td>'
    '<td style="padding:6px 0;border-bottom:1px solid #ececf0;text-align:right">{}</td></tr>'
)
_TABLE = '<table style="width:100%;margin:0 0 16px;border-collapse:collapse;font-size:15px">{}</table>'
_BUTTON = (
    '<p style="margin:24px 0"><a href="{}" style="padding:12px 20px;background:#3d3bdb;color:#ffffff;'
    'border-radius:8px;text-decoration:none;font-size:15px">{}</a></p>'
)
_FOOT = '<p style="margin:24px 0 0;font-size:12px;color:#6b6b76">{}</p>'


@dataclass(frozen=True, slots=True)
class Letter:
    """What a mail says. `rows` are pairs, e.g. a line of the order and its quantity."""

    subject: str
    title: str
    paragraphs: tuple[str, ...]
    rows: tuple[tuple[str, str], ...]
    foot: str
    link: tuple[str, str] | None = None


def as_text(letter: Letter) -> str:
    """Every value in one line: a title with line breaks builds no paragraph of its own."""
    rows = "\n".join(f"  {_line(left)}  {_line(right)}" for left, right in letter.rows)
    link = f"{letter.link[0]}:\n{_line(letter.link[1])}" if letter.link else ""
    blocks = (letter.title, *letter.paragraphs, rows, link, letter.foot)
    return "\n\n".join(block for block in blocks if block) + "\n"


def as_html(letter: Letter) -> str:
    rows = "".join(_ROW.format(escape(left), escape(right)) for left, right in letter.rows)
    return _PAGE.format(
        "".join(
            (
                _TITLE.format(escape(letter.title)),
                *(_PARAGRAPH.format(escape(paragraph)) for paragraph in letter.paragraphs),
                _TABLE.format(rows) if rows else "",
                _BUTTON.format(escape(letter.link[1]), escape(letter.link[0])) if letter.link else "",
                _FOOT.format(escape(letter.foot)),
            )
        )
    )


def _line(text: str) -> str:
    return " ".join(text.split())
