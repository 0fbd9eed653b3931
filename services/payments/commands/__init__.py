"""State changes of payments, one function each; the caller owns the transaction."""
