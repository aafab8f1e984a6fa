"""The command `tinytorch-gpu look VIEW [options] script.py [args ...]`: a program looked into as it is.

`options` reads the command line, `script` runs the program, `course` follows its training steps, `subjects` finds its
models, optimizers and names, `looks` has what each view is told and shows.
"""
from __future__ import annotations

from .options import add, run

__all__ = ["add", "run"]
