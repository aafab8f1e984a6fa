"""The commands around kernels: `tinytorch-gpu kernels`, `kernel check FILE.cu`, `kernel bench FILE.cu`."""
