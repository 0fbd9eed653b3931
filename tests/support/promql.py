"""Which metrics a PromQL query names, and with which labels."""

import re
from collections.abc import Iterator

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_RANGE = re.compile(r"\[[^\]]*\]")
_OFFSET = re.compile(r"\boffset\s+\w+")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*(\{[^}]*\}|\()?")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_OPERATORS = {"and", "or", "unless", "bool", "inf", "nan"}


def selectors(query: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric that is named, with the labels that it is chosen by."""
    bare = _GROUPING.sub("", _plain(query))
    for name, follows in _SELECTOR.findall(bare):
        if follows != "(" and name.lower() not in _OPERATORS:
            yield name, set(_MATCHER.findall(follows))


def grouping_labels(query: str) -> set[str]:
    """The labels that the query groups or matches by."""
    lists = _GROUPING.findall(_plain(query))
    return {label.strip() for each in lists for label in each.split(",") if label.strip()}


def _plain(query: str) -> str:
    """Without texts, durations and Grafana's variables, none of which name anything."""
    return _OFFSET.sub("", _RANGE.sub("", _STRING.sub('""', query)))
