"""The user's cache folder: `TINYTORCH_CACHE`, else the system's place for caches."""
from __future__ import annotations

import getpass
import os
import stat
import tempfile
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder(name: str) -> Path:
    """A folder of the cache, made if need be; a temporary one of this user where the home cannot be written.

    Raises: OSError when TINYTORCH_CACHE is set and cannot be written; PermissionError where another user has made the
    temporary folder: what lies in it is loaded as code.
    """
    if given := os.environ.get("TINYTORCH_CACHE"):
        return _made(Path(given) / name)
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinytorch_gpu"
        folder = _made(base / name)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        pass
    # by number where users have one: in a container it may be without a name
    user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()
    own = Path(tempfile.gettempdir()) / f"tinytorch_gpu-{user}"
    own.mkdir(mode=0o700, exist_ok=True)
    found = own.lstat()
    if hasattr(os, "getuid") and (found.st_uid != user or not stat.S_ISDIR(found.st_mode)):
        raise PermissionError(f"[cache] {own} belongs to another user: set TINYTORCH_CACHE to a folder of your own")
    return _made(own / name)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
