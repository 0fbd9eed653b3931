"""When what failed is tried again: fast for seconds, slow for days, then an operator.

A time-out passes within seconds, an outage within hours; what still fails after days will not mend itself.
One schedule for all three, as pure functions of how often something was tried:

    FAST    1, 2, 4 … seconds: who waits for it hardly notices. Alerts tell of tries, not of things.
    SLOW    from minutes to hours, for days: it costs next to nothing and is in nobody's way. As of the first
            slow pause it stands on an operator's list.
    SPENT   nothing more happens by itself: an operator decides (try again from the beginning, or set aside).

Whoever uses it stores the number of tries and the time of the next one on the row, in the transaction that
records the failure, and begins at one try again when an operator says so. Work that must never end by itself
(money) goes on at the longest pause when it is SPENT.
"""

from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    FAST = "fast"
    SLOW = "slow"
    SPENT = "spent"


@dataclass(frozen=True, slots=True)
class Pause:
    """How long to wait, and where on the schedule that is."""

    seconds: float
    phase: Phase

    @property
    def needs_operator(self) -> bool:
        """Whether it belongs on an operator's list."""
        return self.phase is not Phase.FAST


@dataclass(frozen=True, slots=True)
class Schedule:
    """Pauses double from the first to the longest, in each phase anew."""

    fast_tries: int = 10
    fast_first_seconds: float = 1.0
    fast_longest_seconds: float = 300.0
    slow_tries: int = 24
    slow_first_seconds: float = 900.0
    slow_longest_seconds: float = 6 * 3600.0

    def pause_after(self, tries: int) -> Pause:
        """The pause after so many tries have failed (1 or more)."""
        tries = max(tries, 1)
        if tries < self.fast_tries:
            return Pause(_doubled(self.fast_first_seconds, tries, self.fast_longest_seconds), Phase.FAST)
        slow = tries - self.fast_tries + 1
        phase = Phase.SLOW if slow <= self.slow_tries else Phase.SPENT
        return Pause(_doubled(self.slow_first_seconds, slow, self.slow_longest_seconds), phase)


def _doubled(first: float, tries: int, longest: float) -> float:
    """`first`, twice that, four times … at most `longest`."""
    # The exponent is bounded, not the product alone: a float has no room for 2 to the thousandth.
    return min(longest, first * float(2 ** min(tries - 1, 32)))


# Nine minutes of seconds, then a quarter of an hour to six hours for five days.
DEFAULT = Schedule()
