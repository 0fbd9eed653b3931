"""Reads of the orders database, one noun per module."""
