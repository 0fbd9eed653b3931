"""State changes of the orders database, one noun per module. Nothing here commits."""
