"""Mutants of the CUDA kernels: `tokens` reads a source, `instrument` writes all mutants into one, `trial` runs them."""
