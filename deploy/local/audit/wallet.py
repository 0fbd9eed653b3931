"""I1, I2 and I3: balances, holds and the ledger of the wallet database."""

from collections.abc import Iterator
from itertools import groupby

from deploy.local.audit.snapshot import Check, Finding, Row, Snapshots, SqlCheck
from services.wallet.rules import Account, Balance, Entry, broken_at


class LedgerChains:
    """I1: every user's chain of transactions holds, from its first entry to the profile's head."""

    proves = ("I1",)

    def __call__(self, databases: Snapshots) -> Iterator[Finding]:
        profiles = databases.rows(
            "wallet",
            "SELECT id, points, points_held, points_debt, ledger_seq, ledger_head FROM profiles",
        )
        entries = databases.rows(
            "wallet",
            "SELECT id, user_id, seq, amount, type, description, order_id, stripe_payment_intent_id,"
            " idempotency_key, metadata, balance_after, prev_hash, hash, hash_version, processed_at,"
            " created_at FROM points_transactions ORDER BY user_id, seq",
        )
        chains = {
            user_id: [Entry(**row) for row in rows]
            for user_id, rows in groupby(entries, key=lambda row: row["user_id"])
        }
        for profile in profiles:
            seq = broken_at(_account(profile), chains.get(profile["id"], []))
            if seq is not None:
                yield Finding(
                    "I1", "the ledger does not explain the balance", f"profile {profile['id']}", f"seq {seq}"
                )


def _account(profile: Row) -> Account:
    balance = Balance(profile["points"], profile["points_held"], profile["points_debt"])
    return Account(profile["id"], balance, profile["ledger_seq"], bytes(profile["ledger_head"]))


CHECKS: tuple[Check, ...] = (
    LedgerChains(),
    SqlCheck(
        ("I1",),
        "the net of a grant is not what the ledger posted for it",
        "wallet",
        """
        SELECT g.source_id, g.net_points, coalesce(sum(t.amount), 0) AS posted
        FROM grants g LEFT JOIN points_transactions t
            ON t.type IN ('purchase', 'reversal') AND t.metadata->>'source_id' = g.source_id
        GROUP BY g.source_id HAVING g.net_points <> coalesce(sum(t.amount), 0)""",
    ),
    SqlCheck(
        ("I2",),
        "a balance is out of bounds",
        "wallet",
        """
        SELECT id AS profile, points, points_held, points_debt FROM profiles
        WHERE points < 0 OR points_held NOT BETWEEN 0 AND points OR points_debt < 0
            OR (points_debt > 0 AND points <> points_held)""",
    ),
    SqlCheck(
        ("I2",),
        "points_held is not the sum of the open holds",
        "wallet",
        """
        SELECT p.id AS profile, p.points_held, coalesce(h.points, 0) AS open_holds
        FROM profiles p LEFT JOIN
            (SELECT user_id, sum(points) AS points FROM holds WHERE status = 'held' GROUP BY user_id) h
            ON h.user_id = p.id
        WHERE p.points_held <> coalesce(h.points, 0)""",
    ),
    SqlCheck(
        ("I3",),
        "a captured hold has not exactly one spend of its amount",
        "wallet",
        """
        SELECT h.order_id AS order, h.points, count(t.id) AS spends, coalesce(sum(t.amount), 0) AS spent
        FROM holds h LEFT JOIN points_transactions t
            ON t.type = 'spend' AND t.order_id = h.order_id AND t.user_id = h.user_id
        WHERE h.status = 'captured'
        GROUP BY h.id HAVING count(t.id) <> 1 OR sum(t.amount) <> -h.points""",
    ),
    SqlCheck(
        ("I3",),
        "points were spent without a captured hold",
        "wallet",
        """
        SELECT t.order_id AS order, t.user_id, t.amount, h.status
        FROM points_transactions t LEFT JOIN holds h ON h.order_id = t.order_id AND h.user_id = t.user_id
        WHERE t.type = 'spend' AND h.status IS DISTINCT FROM 'captured'""",
    ),
)
