"""`look.nan()`: the first operator, forward or backward, that makes NaN or an infinity."""
