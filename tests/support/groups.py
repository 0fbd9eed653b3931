"""Which tests one worker runs one after the other, and which of these groups begin first.

A group shares its servers, its services and its shop, so that each is started once and not once per worker.
A file that starts stacks of its own is a group of its own.
"""

from xdist.scheduler import LoadScopeScheduling

# The longest first: what is begun last decides when all is done.
_FIRST = (
    "tests/chaos at one shop",
    "tests/integration/payments at the sandbox",
    "tests/integration/payments",
    "tests/shop",
    "tests/chaos/test_replicas.py",
    "tests/integration/local/test_stack.py",
    "tests/integration/local/test_supervisor.py",
    "tests/integration/orders",
    "tests/e2e/test_audit.py",
    "tests/integration/local",
    "tests/chaos/test_late_facts.py",
    "tests/integration/wallet",
)
_OF_THEIR_OWN = {name for name in _FIRST if name.endswith(".py")}
# So many that they are two groups: these talk to the sandbox, the others to a scripted Stripe.
_AT_THE_SANDBOX = {
    f"tests/integration/payments/test_{name}.py"
    for name in (
        "lost_answers",
        "money_back",
        "quarantine",
        "reconciliation",
        "refunds",
        "subscriptions",
        "with_the_sandbox",
    )
}
# What harms a shop and leaves it whole.
_AT_ONE_SHOP = {
    f"tests/chaos/test_{name}.py" for name in ("crash_walk_of_money", "crash_walk_of_orders", "outages")
}
# Their tests meet in one shop.
_SHOPPERS = (
    *("tests/e2e", "tests/contract", "tests/browser"),
    *("tests/chaos/test_lost_webhooks.py", "tests/chaos/test_payment_lives.py"),
)


def group_of(nodeid: str) -> str:
    """The name of the group that a test belongs to: its file, its folder, or a part of that."""
    file = nodeid.partition("::")[0]
    if file in _OF_THEIR_OWN:
        return file
    folder = file.rpartition("/")[0]
    if file in _AT_ONE_SHOP:
        return f"{folder} at one shop"
    if file in _AT_THE_SANDBOX:
        return f"{folder} at the sandbox"
    return "tests/shop" if folder in _SHOPPERS or file in _SHOPPERS else folder


def place_of(group: str) -> tuple[int, str]:
    """Sorts groups: those that are named above in that order, then the others by name."""
    return _FIRST.index(group) if group in _FIRST else len(_FIRST), group


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Hands out groups, one after the other."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
