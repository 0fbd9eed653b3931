"""The audit where there is no stack.json, as in containers: `python -m deploy.local.audit [--json]`."""

import sys

from deploy.local.audit import report
from deploy.local.audit.settings import AuditSettings
from services.chassis.settings import load
from services.chassis.usage import end_with_usage


def main() -> int:
    """1 when an invariant does not hold."""
    if sys.argv[1:] not in ([], ["--json"]):
        end_with_usage("deploy.local.audit", "--json")
    return report(load(AuditSettings).urls(), as_json="--json" in sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
