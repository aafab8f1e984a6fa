"""Floor 0: devices, dtypes, array namespaces, random numbers, matrix products. No autograd here."""
