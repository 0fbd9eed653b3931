"""The look of the sandbox's pages. Everything that goes in is escaped by whoever puts it in."""

from html import escape

from starlette.responses import HTMLResponse

# No script, nothing from elsewhere. No form-action: browsers hold it against the redirect to the shop too.
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    # The address of a payment page opens it.
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_STYLE = """
:root { color-scheme: light dark; --ink: #1a1f36; --soft: #4f566b; --line: #dfe3ea; --paper: #fff;
  --ground: #f6f8fb; --accent: #4b45c6; --bad: #b3093c; --good: #0b6b3a }
@media (prefers-color-scheme: dark) { :root { --ink: #eef0f6; --soft: #b6bccd; --line: #363c4e;
  --paper: #1b1f2b; --ground: #11141c; --accent: #6f69f0; --bad: #ff8fa8; --good: #7fdcae } }
* { box-sizing: border-box }
body { margin: 0; background: var(--ground); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif }
main { max-width: 34rem; margin: 2rem auto; padding: 1.75rem; background: var(--paper);
  border: 1px solid var(--line); border-radius: .75rem }
main.wide { max-width: 70rem; overflow-x: auto }
h1 { margin: 0 0 .25rem; font-size: 1.375rem } h2 { font-size: 1.125rem; margin: 1.75rem 0 .5rem }
p { margin: .5rem 0 } .soft { color: var(--soft) } .amount { font-size: 2rem; font-weight: 650 }
table { width: 100%; border-collapse: collapse; margin: 1rem 0 }
caption { text-align: left; color: var(--soft); padding-bottom: .25rem }
th, td { text-align: left; padding: .5rem .75rem .5rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top }
.number { text-align: right; font-variant-numeric: tabular-nums; padding-right: 0 }
button { width: 100%; min-height: 2.75rem; margin-top: .625rem; font: inherit; font-weight: 600;
  border-radius: .5rem; border: 1px solid var(--line); background: transparent; color: var(--ink);
  cursor: pointer }
button.main { background: #4b45c6; border-color: #4b45c6; color: #fff }
a { color: var(--accent) } :focus-visible { outline: 3px solid var(--accent); outline-offset: 2px }
[role=alert] { border-left: 4px solid var(--bad); color: var(--bad); padding: .25rem .75rem; margin: 1rem 0 }
pre { white-space: pre-wrap; overflow-wrap: anywhere } code { overflow-wrap: anywhere }
"""
# Currencies whose minor unit is the unit (docs.stripe.com/currencies), and those with three decimals.
_NO_DECIMALS = "bif clp djf gnf jpy kmf krw mga pyg rwf ugx vnd vuv xaf xof xpf"
_THREE_DECIMALS = "bhd jod kwd omr tnd"


def page(title: str, body: str, *, status: int = 200, wide: bool = False) -> HTMLResponse:
    """`title` is text, `body` is HTML."""
    kind = ' class="wide"' if wide else ""
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main{kind}>{body}</main></body></html>"
    )
    return HTMLResponse(text, status_code=status, headers=_HEADERS)


def money(minor_units: int, currency: str) -> str:
    places = 0 if currency in _NO_DECIMALS.split() else 3 if currency in _THREE_DECIMALS.split() else 2
    whole, rest = divmod(minor_units, 10**places)
    fraction = f".{rest:0{places}d}" if places else ""
    return f"{whole:,}{fraction} {currency.upper()}"
