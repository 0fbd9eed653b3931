"""`aishop audit`: the invariants of docs/guarantees.md, checked across the databases while the shop runs.

Each look reads every database in one read-only snapshot. What is on its way between two services looks
broken for a moment, so a finding counts only if a second look, a moment later, shows it again.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from deploy.local.audit import (
    accepted,
    across,
    events,
    facts,
    grants,
    operators,
    paid,
    refunds,
    wallet,
    within,
)
from deploy.local.audit.snapshot import Finding, Snapshots, snapshots
from deploy.local.stackfile import StackFile

CHECKS = (
    *within.CHECKS,
    *wallet.CHECKS,
    *across.CHECKS,
    *paid.CHECKS,
    *facts.CHECKS,
    *grants.CHECKS,
    *refunds.CHECKS,
    *events.CHECKS,
    *operators.CHECKS,
)
_SECOND_LOOK_SECONDS = 2.0
_SHOWN = 50


def audit(stack: StackFile, *, second_look_seconds: float = _SECOND_LOOK_SECONDS) -> list[Finding]:
    """What breaks an invariant, and did so twice; nothing when all of them hold."""
    return _findings(stack.database_urls, second_look_seconds)


def main(stack: StackFile, as_json: bool) -> int:
    """Prints the findings of a local stack; 1 when there are any."""
    return report(stack.database_urls, as_json)


def report(database_urls: Mapping[str, str], as_json: bool, *, accept: str = "") -> int:
    """Prints the findings of these databases; 1 when there are any. With a reason in `accept` they are
    accepted first (accepted.py)."""
    findings = _findings(database_urls, _SECOND_LOOK_SECONDS)
    if accept and findings:
        accepted.accept(database_urls, findings, accept)
        findings = []
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], default=str))
    else:
        _print(findings)
        _print_notes(database_urls)
    return 1 if findings else 0


def _findings(database_urls: Mapping[str, str], second_look_seconds: float) -> list[Finding]:
    first = _look(database_urls)
    if not first:
        return []
    time.sleep(second_look_seconds)
    again = set(_look(database_urls))
    return [finding for finding in first if finding in again]


def _look(database_urls: Mapping[str, str]) -> list[Finding]:
    with snapshots(database_urls) as databases:
        known = accepted.accepted(databases)
        return [finding for check in CHECKS for finding in check(databases) if finding not in known]


def _print(findings: list[Finding]) -> None:
    console = Console(highlight=False)
    if not findings:
        invariants = ", ".join(sorted({name for check in CHECKS for name in _proves(check)}))
        console.print(f"[green]all hold:[/] {invariants} ({len(CHECKS)} checks)")
        return
    table = Table("invariant", "what", "where", "found")
    for finding in findings[:_SHOWN]:
        table.add_row(finding.invariant, finding.what, finding.where, finding.found)
    console.print(table)
    console.print(
        f"[red]{len(findings)} findings[/]" + (f", {_SHOWN} shown" if len(findings) > _SHOWN else "")
    )


def _print_notes(database_urls: Mapping[str, str]) -> None:
    """What operators decided that breaks nothing; and the heads, to be noted elsewhere: whoever cuts an audit
    log short leaves a chain that holds, and another head."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    with snapshots(database_urls) as databases:
        decided = events.notes(databases)
        for note in decided[:_SHOWN]:
            console.print(f"acknowledged: {note}")
        if len(decided) > _SHOWN:
            console.print(f"acknowledged: {len(decided) - _SHOWN} more, see `aishop events list`")
        known = accepted.accepted(databases)
        standing = [each for check in CHECKS for each in check(databases) if each in known] if known else []
        for finding in standing[:_SHOWN]:
            console.print(f"accepted ({known[finding]}): {finding.what}, {finding.where}, {finding.found}")
        if len(standing) > _SHOWN:
            console.print(f"accepted: {len(standing) - _SHOWN} more, see GET /api/admin/audit")
        for head in operators.heads(databases):
            console.print(f"audit log of {head.database}: {head.seq} entries, the last is {head.hash}")


def _proves(check: object) -> tuple[str, ...]:
    return getattr(check, "proves", ())


__all__ = ["CHECKS", "Finding", "Snapshots", "audit", "main", "report", "snapshots"]
