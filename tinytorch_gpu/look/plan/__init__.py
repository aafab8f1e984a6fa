"""look.plan: memory and arithmetic of training a transformer before it is built, and the largest that fits."""
