"""Origins of pages, as browsers spell them."""

import re

_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]+)?")


def is_origin(text: str) -> bool:
    return _ORIGIN.fullmatch(text) is not None
