"""Alembic's entry point; run through `python -m services.orders migrate`."""

from services.chassis.migrate import run
from services.orders.models import metadata

run(metadata)
