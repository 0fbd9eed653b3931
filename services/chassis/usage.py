"""What a process of ours says to words that it does not know."""

import sys
from typing import NoReturn

_BAD_USAGE = 2


def end_with_usage(module: str, *commands: str) -> NoReturn:
    """A line about how it is started, and exit 2: nobody who meant `migrate` gets a server."""
    words = f" [{'|'.join(commands)}]" if commands else ""
    print(f"usage: python -m {module}{words}", file=sys.stderr)
    sys.exit(_BAD_USAGE)
