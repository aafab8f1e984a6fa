"""`device`: the simulation, and real CuPy wherever a GPU answers. A rule in this folder holds on both."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest


@dataclasses.dataclass
class Device:
    name: str
    xp: object
    special: object
    put: Callable  # NumPy array -> device array
    get: Callable  # device array -> NumPy array


def simulated_device() -> Device:
    from tinytorch_gpu.backend import simulated

    return Device("simulated", simulated.xp, simulated.special, simulated.asarray_from_host, simulated.to_host)


def cupy_device() -> Device:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed: the rules ran against the simulation only")
    try:
        cupy.cuda.runtime.getDeviceCount()
        cupy.zeros(1)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"no CUDA device answers ({error}): the rules ran against the simulation only")
    import cupyx.scipy.special

    return Device("cupy", cupy, cupyx.scipy.special, cupy.asarray, cupy.asnumpy)


@pytest.fixture(params=["simulated", pytest.param("cupy", marks=pytest.mark.gpu)])
def device(request) -> Device:
    return simulated_device() if request.param == "simulated" else cupy_device()
