"""The compile matrix: figures belong to the sources, a new spill fails by its name, what architectures lack."""
from __future__ import annotations

import json
import os
import re

import compile_matrix
import numpy as np
import pytest

from tinytorch_gpu.backend import architecture
from tinytorch_gpu.backend import kernel as kernels
from tinytorch_gpu.backend.architecture import FEATURES, TOOLKITS
from tinytorch_gpu.backend.device import backend_for
from tinytorch_gpu.backend.device import device as Device
from tinytorch_gpu.backend.kernel import Kernel, fits
from tinytorch_gpu.kernel_commands import figures
from tinytorch_gpu.kernel_commands.library import instantiations
from tinytorch_gpu.kernel_commands.nvrtc import CompileFailed, Nvrtc, NvrtcMissing

SIM = backend_for(Device("sim"))
CUDA12 = os.environ.get("TINYTORCH_CUDA12")


@pytest.fixture(scope="module")
def nvrtc():
    try:
        return Nvrtc()
    except NvrtcMissing as e:
        pytest.skip(str(e))


def test_the_recorded_figures_are_of_these_sources():
    """bench/results/kernels.json was made from these sources, and nothing spills."""
    recorded, sources = figures.load(compile_matrix.RESULTS)["files"], instantiations()
    old = [*figures.stale(recorded, sources), *compile_matrix.gone(recorded, sources)]
    assert not old, f"changed since they were compiled for all architectures, run python tests/compile_matrix.py: {old}"
    spills = [f"{e} on {a}" for entry in recorded.values() for e, rows in entry["kernels"].items()
              for a, row in rows.items() if row and row[1]]
    assert not spills


QUIET = "__global__ void planted(float* x) { x[threadIdx.x] += 1.f; }\n"
# 32 registers are left to a thread of 2 x 1024, and 64 values live across the loop
SPILLING = """
__global__ void __launch_bounds__(1024, 2) planted(float* x) {
    float v[64];
    for (int k = 0; k < 64; ++k) v[k] = x[threadIdx.x + 1024 * k];
    for (int round = 0; round < 64; ++round)
#pragma unroll
        for (int k = 0; k < 64; ++k) v[k] = v[k] * v[(k + 7) % 64] + x[round];
    for (int k = 0; k < 64; ++k) x[threadIdx.x + 1024 * k] = v[k];
}
"""


@pytest.fixture
def planted(tmp_path, monkeypatch, nvrtc):
    """A library of one file, two architectures, and results of its own; the function runs the matrix here."""
    file, results = tmp_path / "planted.cu", tmp_path / "kernels.json"
    file.write_text(QUIET)
    monkeypatch.setattr(compile_matrix, "RESULTS", results)
    monkeypatch.setattr(compile_matrix, "PROCESSES", 1)
    monkeypatch.setitem(TOOLKITS, "13.0", ("sm_80", "sm_120"))
    monkeypatch.delitem(TOOLKITS, "12.9")
    monkeypatch.setattr(compile_matrix, "instantiations", lambda: {str(file): {"planted": ((), ())}})
    return file, results, lambda *arguments: compile_matrix.main([*arguments])


def test_a_new_spill_fails_by_its_name_and_only_changed_files_compile(planted, capsys):
    file, results, run = planted
    assert run() == 0 and not capsys.readouterr().err
    first = results.read_text()
    assert run() == 0 and "are known" in capsys.readouterr().out
    file.write_text(SPILLING)
    assert run("--check") == 1
    said = capsys.readouterr().err
    assert re.search(r"planted spills \d+ bytes on sm_80, 0 before", said) and "does not know" in said
    assert results.read_text() == first
    assert run() == 1 and "planted spills" in capsys.readouterr().err
    assert results.read_text() == first  # what was known stays, and the next run says it again
    assert run("--allow-spills") == 0
    row = json.loads(results.read_text())["files"][str(file)]["kernels"]["planted"]["sm_80"]
    assert row[0] <= 32 and row[1] > 0 and row[2] == 0
    assert run("--check") == 0


def test_an_unknown_hash_fails_the_check_without_a_spill(planted, capsys):
    file, results, run = planted
    assert run() == 0
    file.write_text(QUIET.replace("1.f", "2.f"))
    assert run("--check") == 1
    assert re.search(r"does not know .*planted\.cu \(CUDA 13\.0\): run python", capsys.readouterr().err)
    assert run() == 0 and run("--check") == 0


def test_kernels_that_are_gone_fail_the_check(planted, monkeypatch, capsys):
    file, results, run = planted
    assert run() == 0
    monkeypatch.setattr(compile_matrix, "instantiations", lambda: {})
    assert run("--check") == 1 and "planted of" in capsys.readouterr().err
    assert run() == 0 and not json.loads(results.read_text())["files"]


def test_a_source_that_does_not_compile_fails_with_its_line(planted, capsys):
    file, results, run = planted
    file.write_text(QUIET.replace("1.f", "undeclared"))
    assert run() == 1
    assert re.search(r'planted\.cu\(1\): error: identifier "undeclared"', capsys.readouterr().err)


def test_a_toolkit_that_is_not_there_is_named(planted, monkeypatch, capsys, tmp_path):
    file, results, run = planted
    monkeypatch.delenv("TINYTORCH_CUDA12", raising=False)
    monkeypatch.setitem(TOOLKITS, "12.9", ("sm_70",))
    assert run() == 1
    assert "no CUDA 12.9 for sm_70" in capsys.readouterr().err
    assert set(json.loads(results.read_text())["files"][str(file)]["states"]) == {"13.0"}  # the rest is kept
    (tmp_path / "empty").mkdir()
    assert run("--cuda12", str(tmp_path / "empty")) == 1
    assert "found no libnvrtc" in capsys.readouterr().err


def test_damaged_results_are_named(planted, capsys):
    file, results, run = planted
    results.write_text("{")
    with pytest.raises(ValueError, match=r"kernels\.json cannot be read .* --all"):
        run()
    assert run("--all") == 0


# what architectures lack

MMA = ("__global__ void f(unsigned* d) { asm volatile(\"mma.sync.aligned.%s {%%0,%%1,%%2,%%3}, %s, "
       "{%%0,%%1,%%2,%%3};\" : \"+r\"(d[0]), \"+r\"(d[1]), \"+r\"(d[2]), \"+r\"(d[3]) : \"r\"(d[4]), \"r\"(d[5]), "
       "\"r\"(d[6]), \"r\"(d[7]), \"r\"(d[8]), \"r\"(d[9])); }")
WIDE = "{%4,%5,%6,%7}, {%8,%9}"
LINES = {
    "mma.m16n8k8": MMA % ("m16n8k8.row.col.f32.f16.f16.f32", "{%4,%5}, {%6}"),
    "mma.m16n8k16": MMA % ("m16n8k16.row.col.f32.f16.f16.f32", WIDE),
    "bfloat16 mma": MMA % ("m16n8k16.row.col.f32.bf16.bf16.f32", WIDE),
    "ldmatrix": "__global__ void f(unsigned* d) { __shared__ int4 s; asm volatile(\"ldmatrix.sync.aligned.m8n8.x1"
                ".shared.b16 {%0}, [%1];\" : \"=r\"(d[0]) : \"r\"((unsigned)__cvta_generic_to_shared(&s))); }",
    "cp.async": "__global__ void f(int* x) { __shared__ int4 s; asm volatile(\"cp.async.cg.shared.global [%0], [%1], "
                "16;\" :: \"r\"((unsigned)__cvta_generic_to_shared(&s)), \"l\"(x)); }",
    "__reduce_add_sync": "__global__ void f(int* x) { x[0] = __reduce_add_sync(~0u, x[1]); }",
    "bfloat16 __hfma": "__global__ void f(__nv_bfloat16* x) { x[0] = __hfma(x[0], x[1], x[2]); }",
}
EVERYWHERE = {
    "values of bfloat16": "__global__ void f(__nv_bfloat16* x) { x[0] = x[0] * x[1] + x[2]; x[3] = hexp(x[0]); "
                          "x[4] = __hmax(x[0], x[1]); x[5] = __float2bfloat16_rn(__bfloat162float(x[6]) * 2.f); "
                          "x[7] = __shfl_xor_sync(~0u, x[8], 1); atomicAdd(x, x[9]); }",
    "values of float16": "__global__ void f(__half* x) { x[0] = __hfma(x[0], x[1], x[2]); x[3] = hexp(x[0]); "
                         "atomicAdd(x, x[9]); }",
    "printf": "__global__ void f(int* x) { printf(\"%d\\n\", x[0]); }",
}
HEADERS = "#include <cuda_fp16.h>\n#include <cuda_bf16.h>\n"


def compiles(nvrtc, text, target):
    try:
        nvrtc.compile(HEADERS + text, "feature.cu", target, ["f"])
    except CompileFailed:
        return False
    return True


@pytest.mark.parametrize("name", FEATURES)
def test_features_begin_where_the_table_says(name, nvrtc):
    least = FEATURES[name].least
    for target in ("sm_75", "sm_80"):
        assert compiles(nvrtc, LINES[name], target) == (architecture.number(target) >= least), target
    if CUDA12:
        assert not compiles(Nvrtc(CUDA12), LINES[name], "sm_70")


@pytest.mark.parametrize("name", EVERYWHERE)
def test_what_every_architecture_has(name, nvrtc):
    assert compiles(nvrtc, EVERYWHERE[name], "sm_75")
    if CUDA12:
        assert compiles(Nvrtc(CUDA12), EVERYWHERE[name], "sm_70")


def test_lacking():
    needs = ("cp.async", "bfloat16 mma")
    assert architecture.lacking(needs, ("float",), 75) == ["cp.async"]
    assert architecture.lacking(needs, ("__nv_bfloat16", "float"), 75) == ["cp.async", "bfloat16 mma"]
    assert architecture.lacking(needs, (np.dtype(np.float16),), 80) == []
    with pytest.raises(ValueError, match="needs wgmma: known are"):
        architecture.lacking(("wgmma",), (), 90)
    assert architecture.number("sm_90a") == 90
    for bad in ("90", "sm_", "compute_90"):
        with pytest.raises(ValueError, match="is no architecture"):
            architecture.number(bad)


def test_what_an_architecture_lacks_is_not_compiled_for_it(planted, monkeypatch):
    file, results, run = planted
    file.write_text(LINES["cp.async"])
    monkeypatch.setitem(TOOLKITS, "13.0", ("sm_75", "sm_80"))
    monkeypatch.setattr(compile_matrix, "instantiations", lambda: {str(file): {"f": (("cp.async",), ())}})
    assert run() == 0
    rows = json.loads(results.read_text())["files"][str(file)]["kernels"]["f"]
    assert rows["sm_75"] is None and rows["sm_80"][0] > 0


def test_kernels_that_the_device_lacks_leave_the_work_to_the_formula(monkeypatch):
    if not kernels.ready(SIM):
        pytest.skip(kernels.reason(SIM))
    kernel = Kernel("template <typename T> __global__ void f(T* x) { x[0] = T(1.f); }", needs=("bfloat16 mma",))
    x32, x16 = SIM.xp.zeros(3, np.float32), SIM.xp.zeros(3, kernels.C_TYPES["__nv_bfloat16"])
    assert fits(x16, kernel=kernel)
    kernel((1,), (1,), x16)
    monkeypatch.setattr(architecture, "capability_of", lambda backend: 75)
    assert fits(x32, kernel=kernel) and not fits(x16, kernel=kernel)
    fresh = Kernel(kernel.source, needs=kernel.needs)
    fresh((1,), (1,), x32)
    with pytest.raises(RuntimeError, match=r"\[kernel\] f: this device lacks bfloat16 mma: use the formula"):
        fresh((1,), (1,), x16)
