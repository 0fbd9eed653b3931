"""The audit where there is no stack.json, as in containers: `python -m deploy.local.audit [--json]`, or
`--accept REASON`, which accepts what it finds (accepted.py)."""

import sys

from deploy.local.audit import report
from deploy.local.audit.settings import AuditSettings
from services.chassis.settings import load
from services.chassis.usage import end_with_usage


def main() -> int:
    """1 when an invariant does not hold."""
    as_json, accept = sys.argv[1:] == ["--json"], ""
    if len(sys.argv) == 3 and sys.argv[1] == "--accept":
        accept = sys.argv[2].strip()
    if not (as_json or accept or len(sys.argv) == 1):
        end_with_usage("deploy.local.audit", "--json", "--accept REASON")
    return report(load(AuditSettings).urls(), as_json, accept=accept)


if __name__ == "__main__":
    sys.exit(main())
