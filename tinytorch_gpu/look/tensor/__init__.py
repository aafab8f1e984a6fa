"""`look.tensor(t)`: a tensor as memory. What it is, whose memory it lies in, who else does, what autograd holds."""
