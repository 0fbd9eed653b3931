"""Secrets and people in the logs of a stack, where neither belongs."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from deploy.local.secret_store import Secrets, load_or_draw

# Whatever looks like it, known or not.
_PATTERNS = {
    # Not an id that has the three letters somewhere.
    "a token": re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+"),
    "an e-mail address": re.compile(r"[A-Za-z0-9._%+-]+@(?:[A-Za-z0-9-]+\.)+(?:com|org|net|local)\b"),
    "a key of Stripe's": re.compile(r"\b(?:sk|rk|whsec)_[A-Za-z0-9_]{8,}"),
    "a card number": re.compile(r"\b4242(?:[ -]?4242){3}\b"),
    "the key of a download": re.compile(r"/api/downloads/[A-Za-z0-9_-]{16,}"),
    "a password in a URL": re.compile(r"://[^\s/:@\"']*:[^\s/@\"'*]+@"),
}
# What may be in a log: the sender of the shop's own mails.
_ALLOWED = ("shop@aishop.local",)


def spills(data: Path) -> list[str]:
    """Each place, and what it spills, of all parts' logs in a stack's data folder."""
    known = dict(_values(load_or_draw(data)))
    return [
        f"{path.name}:{number}: {what}"
        for path in sorted((data / "logs").glob("*.log*"))
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        for what in spilled(line, known)
    ]


def spilled(line: str, known: Mapping[str, str]) -> Iterator[str]:
    """What a line gives away of the known secrets, by their names, and of what looks like one."""
    for allowed in _ALLOWED:
        line = line.replace(allowed, "")
    yield from (name for name, secret in known.items() if secret in line)
    yield from (what for what, pattern in _PATTERNS.items() if pattern.search(line))


def _values(secrets: Secrets) -> Iterator[tuple[str, str]]:
    for name, value in secrets.model_dump().items():
        if isinstance(value, dict):
            yield from value.items()
        else:
            # Of "kid:key" the key.
            yield name, value.rpartition(":")[2]
