"""Alembic's entry point for wallet's database."""

from services.chassis.migrate import run_online
from services.wallet.models import metadata

run_online(metadata)
