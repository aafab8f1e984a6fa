"""What is installed, which devices answer, and what to install: the report of `tinytorch-gpu env`."""
from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import sys

from ._version import __version__
from .backend import device as devices

DRIVERS = {"linux": ("libcuda.so.1",), "win32": ("nvcuda.dll",)}  # NVIDIA has none for macOS
PACKAGES = ("numpy", "scipy", "ml_dtypes", "threadpoolctl", "tqdm", "nvtx")
CUPY = ("cupy-cuda13x", "cupy-cuda12x", "cupy")


def driver_version(load=ctypes.CDLL) -> int | None:
    """The CUDA version of the NVIDIA driver, 13000 for 13.0, None where there is no driver. Needs no CuPy.

    `load` opens a shared library by name and raises OSError when it is not there.
    """
    for name in DRIVERS.get(sys.platform, ()):
        try:
            library = load(name)
            version = ctypes.c_int(0)
            status = library.cuDriverGetVersion(ctypes.byref(version))
        except (OSError, AttributeError):  # no such library, or one that is not NVIDIA's
            continue
        if status == 0 and version.value > 0:
            return version.value
    return None


def cuda_extra(version) -> str | None:
    """The extra of this package that fits a driver: cuda13, cuda12, or None when the driver is too old."""
    return "cuda13" if version >= 13000 else "cuda12" if version >= 12000 else None


def has_cupy() -> bool:
    """Whether CuPy is installed; it is not imported."""
    return importlib.util.find_spec("cupy") is not None


def _shown(version) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def gpu_hint(load=ctypes.CDLL) -> str | None:
    """One line when an NVIDIA driver is there and CuPy is not, or the driver is too old; else None."""
    if has_cupy():
        return None
    version = driver_version(load)
    if version is None:
        return None
    extra = cuda_extra(version)
    if extra is None:
        return (f"NVIDIA GPU found, but its driver ends at CUDA {_shown(version)}: update it to one for CUDA 12 or "
                "newer, then pip install '.[cuda12]'")
    return f"NVIDIA GPU found, CuPy missing: pip install '.[{extra}]'"


def _version_of(package) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _cupy_line() -> str:
    found = [name for name in CUPY if _version_of(name) != "not installed"]
    if len(found) > 1:
        return f"{' and '.join(found)}: uninstall all but one, they overwrite each other"
    return f"{_version_of(found[0])} ({found[0]})" if found else "not installed"


def _default_device() -> str:
    wish = os.environ.get("TINYTORCH_DEVICE", "auto")
    try:
        return f"{devices.default_device()} (TINYTORCH_DEVICE={wish})"
    except RuntimeError as e:
        return f"none: TINYTORCH_DEVICE={wish} does not work: {e}"


def _advice(probe, version) -> str:
    if probe.available:
        return "nothing, the GPU is used"
    if version is None:
        if has_cupy():
            return "an NVIDIA driver, if this machine has an NVIDIA GPU; the CPU works as it is"
        return "nothing for the CPU; for a GPU an NVIDIA driver, then this command again"
    extra = cuda_extra(version)
    if has_cupy() and extra == "cuda13":
        return "the CUDA libraries, if the reason names a missing one: pip install '.[cuda13-ctk]'"
    if has_cupy():
        return "what the reason names"
    return f"pip install '.[{extra}]'" if extra else "a newer NVIDIA driver, for CUDA 12 or 13"


def rows(load=ctypes.CDLL) -> list[tuple[str, str]]:
    """(what, which): versions, devices, the probe's reason, what to install."""
    probe, version = devices.probe(), driver_version(load)
    return [
        ("tinytorch_gpu", __version__),
        ("Python", f"{platform.python_version()} ({platform.system()} {platform.machine()})"),
        *((name, _version_of(name)) for name in PACKAGES),
        ("CuPy", _cupy_line()),
        ("NVIDIA driver", f"for CUDA {_shown(version)}" if version else "none found"),
        ("devices", ", ".join(["cpu", "sim", *(f"cuda:{i}" for i in range(probe.count))])),
        ("default", _default_device()),
        ("GPU", f"{'yes' if probe.available else 'no'}: {probe.reason}"),
        ("to install", _advice(probe, version)),
    ]


def report(load=ctypes.CDLL) -> str:
    """The lines of `tinytorch-gpu env`."""
    lines = [f"{name + ':':<15} {value}" for name, value in rows(load)]
    hint = gpu_hint(load)
    return "\n".join([hint, *lines] if hint else lines)
