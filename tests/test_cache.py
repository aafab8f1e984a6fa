"""Where compiled kernels and measured choices are kept, for users with and without a home and a name."""
from __future__ import annotations

import getpass
import os
import stat
import tempfile
from pathlib import Path

import pytest

from tinytorch_gpu.backend.cache import cache_folder

posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="users have numbers on POSIX systems")


@pytest.fixture(autouse=True)
def system(tmp_path, monkeypatch):
    """A system of its own: no TINYTORCH_CACHE, a home and a temporary folder."""
    for name in ("TINYTORCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("home", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path


def test_the_places_in_their_order(system, monkeypatch):
    assert cache_folder("a") == system / "home" / ".cache" / "tinytorch_gpu" / "a"
    monkeypatch.setenv("XDG_CACHE_HOME", str(system / "xdg"))
    assert cache_folder("a") == system / "xdg" / "tinytorch_gpu" / "a"
    monkeypatch.setenv("TINYTORCH_CACHE", str(system / "mine"))
    assert cache_folder("a") == system / "mine" / "a" and cache_folder("a").is_dir()


def blocked(system, monkeypatch, how):
    """No folder can be made in the home: below a file by no user, in a read-only one by none but root."""
    if how == "nowhere":
        def home():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", home)
    elif how == "file":
        (system / "home" / ".cache").touch()
    else:
        (system / "home" / ".cache" / "tinytorch_gpu" / "a").mkdir(parents=True)
        monkeypatch.setattr(os, "access", lambda path, mode: "home" not in Path(path).parts)


@pytest.mark.parametrize("how", ["nowhere", "file", "read-only"])
def test_without_a_home_it_is_a_temporary_folder_of_this_user_alone(system, monkeypatch, how):
    blocked(system, monkeypatch, how)
    folder = cache_folder("a")
    assert folder.is_dir() and folder.parent.parent == system / "temporary" and cache_folder("a") == folder
    if os.name == "posix":
        assert stat.S_IMODE(folder.parent.stat().st_mode) & 0o077 == 0


@posix
def test_a_user_without_a_name(system, monkeypatch):
    def getuser():
        raise KeyError("getpwuid(): uid not found: 1000710000")

    monkeypatch.setattr(getpass, "getuser", getuser)
    blocked(system, monkeypatch, "file")
    assert cache_folder("a").parent.name == f"tinytorch_gpu-{os.getuid()}"


@posix
def test_a_folder_that_another_user_has_made_is_refused(system, monkeypatch):
    """What lies in the cache is loaded as code."""
    blocked(system, monkeypatch, "file")
    number = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: number)
    with pytest.raises(PermissionError, match=r"\[cache\] .* belongs to another user: set TINYTORCH_CACHE"):
        cache_folder("a")
    assert not (system / "temporary" / f"tinytorch_gpu-{number}" / "a").exists()


def test_a_given_place_is_never_left(system, monkeypatch):
    (system / "file").touch()
    monkeypatch.setenv("TINYTORCH_CACHE", str(system / "file" / "cache"))
    with pytest.raises(OSError):
        cache_folder("a")
    assert not list((system / "temporary").iterdir())
