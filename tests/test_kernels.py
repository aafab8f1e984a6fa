"""Every kernel of the library against float64 formulas, executed on the simulated device (or a GPU: --device cuda)."""
from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from kernel_cases import CASES, Bench

from tinytorch_gpu.backend import kernel, kernel_source
from tinytorch_gpu.backend.device import backend_for
from tinytorch_gpu.backend.device import device as Device
from tinytorch_gpu.kernel_commands.library import bound_by

# change what they are given, or leave parts of it as they are
IN_PLACE = {"check_indices", "embedding_backward", "embedding_forward", "unscale", "advance", "adam", "sgd",
            "update_scale", "cross_entropy_forward"}
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@pytest.fixture
def backend(request):
    """Where kernels run: the GPU with --device cuda, else the simulated device."""
    where = backend_for(Device("cuda" if request.config.getoption("--device") == "cuda" else "sim"))
    if not kernel.ready(where):
        pytest.skip(f"kernels cannot run here: {kernel.reason(where)}")
    return where


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.__name__)
def test_kernel_equals_its_formula(case, dtype, backend, rng):
    bench = Bench(backend, rng)
    case(bench, np.dtype(DTYPES[dtype]))
    assert bench.compared


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.__name__)
def test_kernel_touches_only_its_own_memory_without_races(case, backend, rng):
    """The check build sees every access, and the order of threads must not show in the bits. float16 has the largest
    pieces of a thread and the odd tails. Kernels that change tensors in place run once, not in several orders."""
    if backend.type != "sim":
        pytest.skip("the check build is the simulated device's")
    with kernel.checking(orders=not IN_PLACE & set(CASES[case])):
        bench = Bench(backend, rng)
        case(bench, np.dtype(np.float16))
    assert bench.compared


def test_every_kernel_has_a_case():
    covered = {name for names in CASES.values() for name in names}
    written = {name for path in kernel_source.library_files() for name in kernel_source.read(path).signatures}
    assert written == covered, f"no case: {sorted(written - covered)}; no kernel: {sorted(covered - written)}"


def written():
    """(file, name) of every `__global__` of the library."""
    return {(path.name, name) for path in kernel_source.library_files()
            for name in kernel_source.read(path).signatures}


def test_every_kernel_has_a_launcher():
    assert {(k.source, k.signature.name) for k in kernel.LIBRARY} == written()


def test_every_kernel_is_launched_by_an_operator_or_an_optimizer():
    """Operators have lines in cases.py, and so run on the simulated device; a launcher alone is no use to a program."""
    assert written() == set(bound_by()), f"nothing launches {sorted(written() - set(bound_by()))}"


def test_results_do_not_differ_between_runs(backend, rng):
    from tinytorch_gpu.backend import kernel_rows as rows

    bench = Bench(backend, rng)
    x, _ = bench.draw((700, 96), np.float32)
    grad, _ = bench.draw((700, 96), np.float32)
    weight, _ = bench.draw(96, np.float32)
    first = None
    for _ in range(3):
        y, mean, r, _ = rows.norm(x, weight, weight, 96, 1e-5, True)
        values = [backend.to_host(a).tobytes() for a in (y, *rows.norm_backward(grad, x, weight, mean, r, 96, True))]
        first = first or values
        assert values == first
