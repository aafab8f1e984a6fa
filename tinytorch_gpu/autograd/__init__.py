"""Floor 1: recording and differentiating."""
