"""I1: the ledger of the wallet database, read whole."""

from collections.abc import Iterator
from itertools import groupby

from deploy.local.audit.snapshot import Check, Finding, Row, Snapshots
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


CHECKS: tuple[Check, ...] = (LedgerChains(),)
