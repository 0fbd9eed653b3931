"""What counts as an e-mail address, for receipts and for Stripe's page: one definition, trimmed.

An address is a convenience: what is none is left out, and vetoes no purchase.
"""

import re

# RFC 5321: 64 of the local part, @, 255 of the domain.
MAX_MAILBOX = 320
# Without blanks and without what gives an address list or a header its structure.
_MAILBOX = re.compile(r"[^\s@<>()\[\]\\,;:\"]{1,64}@[^\s@<>()\[\]\\,;:\"]{1,255}")


def mailbox_of(address: str) -> str:
    """The one mailbox that this names, without blanks around it; empty when mail cannot be sent to it as it
    stands, in an envelope and in a header."""
    trimmed = address.strip()
    is_mailbox = len(trimmed) <= MAX_MAILBOX and trimmed.isprintable() and _MAILBOX.fullmatch(trimmed)
    return trimmed if is_mailbox else ""
