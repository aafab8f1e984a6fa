"""The user's cache folder: `TINYTORCH_CACHE`, else the system's place for caches."""
from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder(name: str) -> Path:
    """A folder of the cache, made if need be; a temporary one of this user where the home cannot be written.

    Raises: OSError when TINYTORCH_CACHE is set and cannot be written.
    """
    given = os.environ.get("TINYTORCH_CACHE")
    base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinytorch_gpu"
    folder = base / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        if given:
            raise
        folder = Path(tempfile.gettempdir()) / f"tinytorch_gpu-{getpass.getuser()}" / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder
