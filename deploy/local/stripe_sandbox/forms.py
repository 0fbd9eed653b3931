"""Stripe's form encoding: `line_items[0][price_data][currency]=usd` to nested objects and lists."""

import re
from typing import Any
from urllib.parse import parse_qsl

_PART = re.compile(r"\[([^\[\]]*)\]")


def decode(body: str) -> dict[str, Any]:
    """Nested dictionaries; those whose keys are 0, 1, 2 … become lists. ValueError for a malformed key."""
    nested: dict[str, Any] = {}
    for key, value in parse_qsl(body, keep_blank_values=True, strict_parsing=bool(body)):
        *parents, last = _path(key)
        place = nested
        for part in parents:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ValueError(f"{key}: {part} is a value and an object")
        place[last or str(len(place))] = value
    return {key: _with_lists(value) for key, value in nested.items()}


def _path(key: str) -> list[str]:
    head, bracket, rest = key.partition("[")
    parts = _PART.findall(bracket + rest)
    if not head or "".join(f"[{part}]" for part in parts) != bracket + rest:
        raise ValueError(f"malformed key {key!r}")
    return [head, *parts]


def _with_lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {key: _with_lists(item) for key, item in value.items()}
    if inner and all(key == str(place) for place, key in enumerate(inner)):
        return list(inner.values())
    return inner
