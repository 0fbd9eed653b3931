"""Stripe's form encoding: `line_items[0][price_data][currency]=eur`, brackets escaped or not."""

import re
from typing import Any
from urllib.parse import parse_qsl

from deploy.local.stripe_sandbox.errors import Refusal

Tree = dict[str, Any]

_MAX_FIELDS = 2_000
_MAX_DEPTH = 8
_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")


def decode(raw: bytes) -> Tree:
    """Nested dicts of strings; `name[]` counts up, and lists are dicts of digits until params.py reads
    them, so that metadata may have a key "0"."""
    try:
        pairs = parse_qsl(
            raw.decode("utf-8"), keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict"
        )
    except ValueError as error:
        raise Refusal(400, "Invalid request: the body is not form-encoded UTF-8.") from error
    tree: Tree = {}
    for name, value in pairs:
        _put(tree, name, value)
    return tree


def _put(tree: Tree, name: str, value: str) -> None:
    match = _NAME.fullmatch(name)
    if match is None or match[2].count("[") >= _MAX_DEPTH:
        raise Refusal(400, f"Invalid parameter name: {name}", param=name)
    path = [match[1], *re.findall(r"\[([^\[\]]*)\]", match[2])]
    for part in path[:-1]:
        tree = tree.setdefault(part or str(len(tree)), {})
        if not isinstance(tree, dict):
            raise Refusal(400, f"Invalid hash: {name}", param=name)
    last = path[-1] or str(len(tree))
    if isinstance(tree.get(last), dict):
        raise Refusal(400, f"Invalid string: {name}", param=name)
    tree[last] = value
