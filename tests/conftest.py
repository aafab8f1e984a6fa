"""`pytest --device cpu|sim|cuda` is the package's own plugin; here are seeds, new in each run and printed, and workers.

The whole suite runs in two processes or more where pytest-xdist is installed; `-n 0` keeps it in one.
"""
from __future__ import annotations

import gc
import os
import secrets
import sys
import zlib

import numpy as np
import pytest

from tinytorch_gpu.backend import cache, kernel
from tinytorch_gpu.backend import device as devices

pytest_plugins = ["tinytorch_gpu.testing.pytest", "pytester"]


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads its own options
def pytest_cmdline_main(config):
    if hasattr(config, "workerinput"):  # pytest-xdist calls this in its workers too: they must not have workers
        return
    option, cores = config.option, os.cpu_count() or 1
    whole = config.args_source is not pytest.Config.ArgsSource.ARGS
    if (whole and cores > 1 and getattr(option, "numprocesses", 0) is None and option.dist == "no"
            and option.device != "cuda" and not (option.collectonly or option.usepdb)):
        # two processes on two cores: the suite in half the time of one. Each process needs some seconds of imports and
        # collection first: no more than eight
        option.numprocesses, option.dist = min(cores, 8), "worksteal"


@pytest.hookimpl(tryfirst=True)  # before hypothesis reads its seed
def pytest_configure(config):
    given = os.environ.get("TINYTORCH_TEST_SEED", "")
    if given and not given.isdecimal():
        raise pytest.UsageError(f"TINYTORCH_TEST_SEED must be a whole number, got {given!r}")
    os.environ.pop("COLUMNS", None)  # of the terminal that happens to run this: views are as wide as it says
    if not os.access(os.path.expanduser("~"), os.W_OK):  # CuPy makes a folder there when it is imported
        os.environ.setdefault("CUPY_CACHE_DIR", str(cache.cache_folder("cupy")))
    worker = getattr(config, "workerinput", None)  # under pytest-xdist all workers use the first process's seed
    config.modules_frozen = config.tests_frozen = config.tests_begun = 0
    config.file_begun = None
    config.base_seed = int(given) if given else worker["base_seed"] if worker else secrets.randbelow(2**32)
    if getattr(config.option, "hypothesis_seed", 0) is None:  # one number repeats the random graphs too
        config.option.hypothesis_seed = str(config.base_seed)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    node.workerinput["base_seed"] = node.config.base_seed


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    # what was collected and imported is no garbage: a full collection, of which the views of memory ask for many, would
    # go through a million objects each time. Nor is what pytest keeps of each test; that goes between two files, where
    # no fixture of a file lives that a test may want to see collected
    config = item.config
    config.tests_begun += 1
    another, config.file_begun = config.file_begun != item.path, item.path
    if len(sys.modules) > config.modules_frozen + 100 or (another and config.tests_begun > config.tests_frozen + 300):
        gc.collect()
        gc.freeze()
        config.modules_frozen, config.tests_frozen = len(sys.modules), config.tests_begun


def pytest_report_header(config):
    return f"tinytorch_gpu: TINYTORCH_TEST_SEED={config.base_seed}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed and "seed" in item.fixturenames:
        report.sections.append(("seed", f"repeat with TINYTORCH_TEST_SEED={item.config.base_seed}"))


@pytest.fixture
def seed(request):
    """A number that is new in each run and differs between tests; fixed by TINYTORCH_TEST_SEED."""
    return (request.config.base_seed + zlib.crc32(request.node.nodeid.encode())) % 2**32


@pytest.fixture
def rng(seed):
    """A NumPy generator from `seed`."""
    return np.random.default_rng(seed)


@pytest.fixture
def torch():
    """PyTorch, the oracle; the test is skipped where it is missing."""
    return pytest.importorskip("torch", reason="PyTorch is not installed: pip install '.[oracle]'")


@pytest.fixture
def where(request):
    """A device with kernels, not made the default: the GPU with --device cuda, else the simulated one."""
    found = devices.device("cuda" if request.config.getoption("--device") == "cuda" else "sim")
    backend = devices.backend_for(found)
    if not kernel.ready(backend):
        pytest.skip(f"kernels cannot run here: {kernel.reason(backend)}")
    return found


@pytest.fixture
def counted(monkeypatch):
    """Names of the kernels that are launched."""
    names = []
    call = kernel.Kernel.__call__

    def counting(self, *args, **options):
        names.append(self.signature.name)
        return call(self, *args, **options)

    monkeypatch.setattr(kernel.Kernel, "__call__", counting)
    return names
