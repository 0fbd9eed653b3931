"""Envelope encryption of columns (AES-256-GCM) and keyed lookup hashes.

A sealed value is `version(1) | len(kid)(1) | kid | nonce(12) | ciphertext+tag`. The place where it is
stored (table, column, row) is bound as associated data, so that a value moved to another row does not
open.
"""

import base64
import hashlib
import hmac
import os

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

_VERSION = 1
_NONCE_BYTES = 12
_KEY_BYTES = 32


def _decode_key(name: str, encoded: str) -> bytes:
    key = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    if len(key) != _KEY_BYTES:
        raise ValueError(f"{name}: a key is 32 bytes as base64url, got {len(key)}")
    return key


class Keyring:
    """The keys of one service: the first encrypts, every one decrypts."""

    def __init__(self, spec: SecretStr) -> None:
        pairs = [pair.strip().partition(":") for pair in spec.get_secret_value().split(",")]
        self._ciphers = {
            kid.encode(): AESGCM(_decode_key("DATA_ENCRYPTION_KEYS", key)) for kid, _, key in pairs
        }
        self._current = pairs[0][0].encode()

    @property
    def current_head(self) -> bytes:
        """How every value begins that the newest key sealed."""
        return bytes([_VERSION, len(self._current)]) + self._current

    def seal(self, plain: bytes, *, place: str) -> bytes:
        """Encrypts `plain` for one `place`, e.g. "orders.email:<order id>"."""
        nonce = os.urandom(_NONCE_BYTES)
        return self.current_head + nonce + self._ciphers[self._current].encrypt(nonce, plain, place.encode())

    def open(self, sealed: bytes, *, place: str) -> bytes:
        """Decrypts; raises cryptography's InvalidTag for another place, KeyError for a lost key, ValueError
        or IndexError for what was never sealed."""
        if sealed[0] != _VERSION:
            raise ValueError("not a sealed value of this version")
        kid_end = 2 + sealed[1]
        nonce_end = kid_end + _NONCE_BYTES
        cipher = self._ciphers[sealed[2:kid_end]]
        return cipher.decrypt(sealed[kid_end:nonce_end], sealed[nonce_end:], place.encode())


class EmailHasher:
    """HMAC-SHA-256 of a normalised e-mail, to find a row without storing the address in the clear."""

    def __init__(self, key: SecretStr) -> None:
        self._key = _decode_key("EMAIL_HMAC_KEY", key.get_secret_value())

    def digest(self, email: str) -> bytes:
        return hmac.new(self._key, email.strip().lower().encode(), hashlib.sha256).digest()
