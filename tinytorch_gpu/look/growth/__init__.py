"""`look.growth(make_model, depths, ...)`: memory and time of a training step, measured against the sizes of a model."""
