"""`look.gradients(model)`: norms of gradients and updates, dead units, vanishing and exploding, over training."""
