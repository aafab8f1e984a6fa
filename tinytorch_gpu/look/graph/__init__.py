"""`look.graph(loss)`: the graph that produced a tensor, forward beside backward."""
