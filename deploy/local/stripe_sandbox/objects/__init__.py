"""Stripe's objects with every field that the official client's types declare for them, one file each."""

# The version whose format the objects have; the official client of the shop pins the same.
API_VERSION = "2026-10-28.endive"
