"""Alembic's entry point; run through `python -m services.orders migrate`."""

from services.chassis.migrate import run_online
from services.orders.models import metadata

run_online(metadata)
