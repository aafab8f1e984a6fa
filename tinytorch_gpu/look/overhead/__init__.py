"""`look.overhead(fn)`: what gradients cost a computation, in time and memory; recorded beside captured."""
