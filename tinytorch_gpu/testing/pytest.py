"""A pytest plugin for suites that use tinytorch_gpu. A conftest.py at the top of the tests opts in:

    pytest_plugins = ["tinytorch_gpu.testing.pytest"]

- `--device cpu|sim|cuda` (default cpu): where new tensors are made, from collection on;
- the fixture `device`: that device;
- the fixture `kernel_device`: where kernels are executed, the GPU with `--device cuda`, else the simulated device. It
  is the default device of the test, which is skipped with the reason where kernels cannot be executed (no g++);
- the marker `gpu`: the test needs a GPU and is skipped with the reason where none answers.

It is not loaded by itself: `--device` is a common name. It works under pytest-xdist.
"""
from __future__ import annotations

import pytest

from ..backend import device as devices
from ..backend import kernel

_before = pytest.StashKey[object]()


def pytest_addoption(parser):
    parser.getgroup("tinytorch_gpu").addoption(
        "--device", choices=("cpu", "sim", "cuda"), default="cpu",
        help="where tensors are made: the CPU, the simulated device or an NVIDIA GPU (default: cpu)")


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs an NVIDIA GPU and CuPy; skipped where none answers")
    where = config.getoption("--device")
    config.stash[_before] = devices._process_default
    try:
        devices.set_default_device(where)
    except RuntimeError as e:
        raise pytest.UsageError(f"--device {where}: {e}") from None


def pytest_unconfigure(config):
    devices.set_default_device(config.stash.get(_before, None))  # a program may go on after pytest.main()


def pytest_report_header(config):
    probe = devices.probe()
    gpu = probe.reason if probe.available else f"none ({probe.reason})"
    return [f"tinytorch_gpu: device {config.getoption('--device')}, GPU {gpu}",
            f"tinytorch_gpu: kernels {_kernels(config)}"]


def _kernels(config):
    backend = devices.backend_for(_kernel_device(config))
    if not kernel.ready(backend):
        return f"are not executed ({kernel.reason(backend)})"
    return "run on the GPU" if backend.type == "cuda" else "are executed on the CPU, on the simulated device"


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") is not None and not devices.probe().available:
        pytest.skip(f"needs a GPU: {devices.probe().reason}")


def _kernel_device(config):
    return devices.device("cuda" if config.getoption("--device") == "cuda" else "sim", 0)


@pytest.fixture
def device(request):
    """The device under test, the default of new tensors: --device."""
    where = request.config.getoption("--device")
    return devices.device(where, None if where == "cpu" else 0)


@pytest.fixture
def kernel_device(request):
    """The device that executes kernels, the default of new tensors in this test; skips where there is none."""
    where = _kernel_device(request.config)
    backend = devices.backend_for(where)
    if not kernel.ready(backend):
        pytest.skip(f"kernels cannot be executed: {kernel.reason(backend)}")
    with where:
        yield where
