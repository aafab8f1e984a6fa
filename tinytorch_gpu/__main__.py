"""`python -m tinytorch_gpu` is the command `tinytorch-gpu`."""
from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":  # worker processes of a DataLoader import the main module again
    sys.exit(main())
