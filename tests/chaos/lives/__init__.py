"""Random payment lives: what may happen to a customer's money, lived at the shop and judged."""
