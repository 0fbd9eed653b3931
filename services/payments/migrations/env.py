"""Alembic's entry point; run through `python -m services.payments migrate`."""

from services.chassis.migrate import run
from services.payments.models import metadata

run(metadata)
