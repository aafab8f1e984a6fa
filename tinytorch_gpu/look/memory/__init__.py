"""look.memory: every byte of a training step by owner, over time and at the peak, and what holds it."""
