"""`look.trace(loss)`: the chain rule step by step, with the numbers of this graph."""
