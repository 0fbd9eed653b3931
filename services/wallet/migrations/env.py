"""Alembic's entry point for wallet's database."""

from services.chassis.migrate import run
from services.wallet.models import metadata

run(metadata)
