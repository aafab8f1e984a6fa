"""The pytest plugin for users' suites, run by pytest in a process of its own, with and without a compiler."""
from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
from lines import PACKAGE, modules

from tinytorch_gpu.backend.device import probe
from tinytorch_gpu.backend.simulated import emulator

ROOT = Path(__file__).resolve().parents[1]
OPT_IN = 'pytest_plugins = ["tinytorch_gpu.testing.pytest"]\n'

DEVICES = """
import numpy as np
import tinytorch_gpu as tt

AT_COLLECTION = tt.ones(2).device

def test_default(device):
    assert AT_COLLECTION == tt.ones(2).device == device
    assert device.type == {device!r}

def test_in_a_thread(device):
    import concurrent.futures
    with concurrent.futures.ThreadPoolExecutor() as pool:
        assert pool.submit(tt.ones, 2).result().device == device
"""

KERNELS = '''
import logging
import numpy as np
import tinytorch_gpu as tt
from tinytorch_gpu.backend.kernel import Kernel, checking

twice = Kernel("""template <typename T> __global__ void twice(const T* x, T* y, long long n) {
    const long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i] + x[i];
}""")

def test_kernel(kernel_device):
    x = tt.arange(100.0)
    assert x.device == kernel_device and x.device.type == "sim"
    y = tt.empty(100)
    with checking():
        twice((2,), (64,), x._array, y._array, 100)
    np.testing.assert_array_equal(y.cpu().numpy(), 2 * np.arange(100.0))

def test_operators_have_formulas(caplog):
    with caplog.at_level(logging.WARNING, logger="tinytorch_gpu"):
        for _ in range(2):
            x = tt.linspace(-2, 2, 50, device="sim", requires_grad=True)
            tt.nn.functional.gelu(x).sum().backward()
            assert x.grad is not None
    print("warnings:", [r.getMessage() for r in caplog.records])
'''


@pytest.fixture(autouse=True)
def once(request):
    """Processes of their own, the same with each --device: the simulated run leaves them to the first."""
    if request.config.getoption("--device") == "sim":
        pytest.skip("the same as with --device cpu")


@pytest.fixture
def users(pytester, monkeypatch):
    """A user's folder with a conftest that opts in; pytest runs there in a process of its own."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TINYTORCH_CACHE", str(emulator.build.cache_folder().parent))  # HOME is another one there
    for name in ("TINYTORCH_CXX", "TINYTORCH_DEVICE", "TINYTORCH_FUSED", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    pytester.makeconftest(OPT_IN)
    return pytester


@pytest.mark.parametrize("where, workers", [("cpu", 0), ("sim", 2)])
def test_device_is_the_default_from_collection_on(users, where, workers):
    if workers:
        pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    users.makepyfile(DEVICES.replace("{device!r}", repr(where)))
    result = users.runpytest_subprocess("--device", where, *(["-n", str(workers)] if workers else []))
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines([f"tinytorch_gpu: device {where}, GPU *", "tinytorch_gpu: kernels *"])


def test_gpu_marker_and_device_cuda_say_why_not(users):
    if probe().available:
        pytest.skip("a GPU answers")
    users.makepyfile("import pytest\n@pytest.mark.gpu\ndef test_it(): raise AssertionError('ran')")
    result = users.runpytest_subprocess("-rs", "--strict-markers")
    result.assert_outcomes(skipped=1)
    reason = "CuPy imports, but no CUDA device answers" if "CuPy imports" in probe().reason else probe().reason
    assert f"needs a GPU: {reason}" in result.stdout.str()
    result = users.runpytest_subprocess("--device", "cuda")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"--device cuda: [device] cuda is not available: {reason}" in result.stderr.str()


@pytest.mark.gpu
def test_device_cuda_on_a_gpu(users):
    users.makepyfile(DEVICES.replace("{device!r}", "'cuda'"))
    users.runpytest_subprocess("--device", "cuda").assert_outcomes(passed=2)


def test_the_default_device_is_restored(users):
    code = """
import sys
import pytest, tinytorch_gpu as tt
tt.set_default_device("cpu")
assert pytest.main(["--device", "sim", "-q", "-p", "no:cacheprovider"]) == 0
assert tt.ones(1).device.type == "cpu"
"""
    users.makepyfile("import tinytorch_gpu as tt\ndef test_it(): assert tt.ones(1).device.type == 'sim'")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr


def test_kernels_are_executed_where_a_compiler_is(users):
    if emulator.unavailable():
        pytest.skip(emulator.unavailable())
    users.makepyfile(KERNELS)
    result = users.runpytest_subprocess("-rP")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["tinytorch_gpu: kernels are executed on the CPU, on the simulated device",
                                 "warnings: []"])


def test_the_page_about_ci(users):
    """Its conftest and its tests, on the simulated device."""
    page = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    conftest, tests = re.findall(r"```python\n(.*?)```", page, re.S)
    assert conftest == OPT_IN
    users.makepyfile(tests)
    passed, skipped = (1, 4) if emulator.unavailable() else (5, 0)
    gpu = int(probe().available)
    users.runpytest_subprocess("--device", "sim", "--strict-markers").assert_outcomes(
        passed=passed + gpu, skipped=skipped + 1 - gpu)


def test_without_a_compiler_kernels_skip_and_operators_warn_once(users, monkeypatch):
    users.makepyfile(KERNELS)
    users.mkdir("empty")
    monkeypatch.setenv("PATH", str(users.path / "empty"))
    result = users.runpytest_subprocess("-rPs", "-p", "no:xdist")
    result.assert_outcomes(passed=1, skipped=1)
    missing = "*[[]emulator] *"  # Linux: "g++ was not found: install ..."; elsewhere the system is named
    result.stdout.fnmatch_lines([f"tinytorch_gpu: kernels are not executed ({missing})"])
    result.stdout.fnmatch_lines([f"SKIPPED*kernels cannot be executed: {missing}"])
    # the header has asked already, which is when it is logged: operators do not warn again
    result.stdout.fnmatch_lines(["warnings: []"])
    if sys.platform == "linux":
        assert "g++ was not found: install g++" in result.stdout.str()


def test_without_a_compiler_operators_log_one_warning(monkeypatch, tmp_path):
    code = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
import tinytorch_gpu as tt
x = tt.linspace(-2, 2, 50, device="sim", requires_grad=True)
for f in (tt.nn.functional.gelu, tt.nn.functional.silu, tt.nn.functional.gelu):
    f(x).sum().backward()
tt.nn.functional.layer_norm(tt.ones((3, 8), device="sim"), (8,))
"""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("TINYTORCH_CXX", raising=False)
    monkeypatch.delenv("TINYTORCH_FUSED", raising=False)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("WARNING operators use their formulas: [emulator] ") == 1 == done.stdout.count("\n")


def test_it_is_not_loaded_by_itself(users):
    users.makeconftest("")
    users.makepyfile("def test_it(): pass")
    result = users.runpytest_subprocess("--device", "sim")
    assert result.ret == pytest.ExitCode.USAGE_ERROR and "unrecognized arguments: --device" in result.stderr.str()
    assert "entry-points" not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    loaded = [e.value for e in importlib.metadata.entry_points(group="pytest11") if PACKAGE.name in e.value]
    assert not loaded


def test_pytest_is_imported_by_the_plugin_only():
    importers = []
    for path in modules():
        for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else (
                [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else [])
            importers += [path.as_posix() for name in names if name.split(".")[0] in ("pytest", "_pytest")]
    assert importers == ["testing/pytest.py"]
    code = "import sys, tinytorch_gpu, tinytorch_gpu.testing; assert 'pytest' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
