"""What the gateway loads: it has no database and no broker, and stays small without their clients."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
_OF_OTHERS = ("sqlalchemy", "psycopg", "alembic", "nats", "stripe", "aiosmtplib")


def test_the_gateway_loads_no_client_of_a_database_broker_or_stripe() -> None:
    program = "import json, sys, gateway.__main__; print(json.dumps([*sys.modules]))"
    loaded = json.loads(subprocess.check_output([sys.executable, "-c", program], cwd=ROOT))
    assert "gateway.app" in loaded
    assert [name for name in _OF_OTHERS if name in loaded] == []
