"""Asking only who answers: after a failure one try a second, so that nobody waits for what is away."""

import time

from services.chassis import logs

log = logs.get(__name__)

_LOOK_AGAIN_SECONDS = 1.0


class Breaker:
    """Lets everyone through until one has failed; then one each second, until that one has not.

    Logs `<name>.away` and `<name>.back`, once each.
    """

    def __init__(self, name: str, *, does: str) -> None:
        self._name = name
        self._does = does
        self._is_open = False
        self._look_again_at = 0.0

    def lets_through(self) -> bool:
        if not self._is_open:
            return True
        now = time.monotonic()
        if now < self._look_again_at:
            return False
        self._look_again_at = now + _LOOK_AGAIN_SECONDS
        return True

    def failed(self, error: Exception) -> None:
        self._look_again_at = time.monotonic() + _LOOK_AGAIN_SECONDS
        if not self._is_open:
            log.warning(f"{self._name}.away", does_not=self._does, error=repr(error))
        self._is_open = True

    def worked(self) -> None:
        if self._is_open:
            log.info(f"{self._name}.back", does=self._does)
        self._is_open = False
