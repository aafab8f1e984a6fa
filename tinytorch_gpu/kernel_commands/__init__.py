"""The commands around kernels: `tinytorch-gpu kernels`, `kernel check FILE.cu`, `kernel bench FILE.cu`.

`options` reads the command line, `table` lists the library's kernels (`library`: who launches them, `figures`: what
compilers and GPUs said), `launch` puts launches together, `check` and `bench` run them, `nvrtc` compiles without a GPU.
"""
from __future__ import annotations

from .options import add, run

__all__ = ["add", "run"]
