"""gRPC faces of payments: customers' and orders' calls (payments.py), operators' (operator.py)."""
