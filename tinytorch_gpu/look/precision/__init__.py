"""`look.precision(model, batch)`: mixed precision measured: memory, time, gradients lost, overflows, losses."""
