"""The mutation script itself: which mutants it makes, that weak tests let them live and strong ones do not."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

if not hasattr(os, "fork"):
    pytest.skip("mutants run in forked processes: Linux only", allow_module_level=True)

import mutants
from mutation.instrument import Instrumented
from mutation.tokens import Closure

from tinytorch_gpu.backend.simulated import emulator

ROOT = Path(__file__).resolve().parents[1]
PLANTED = """#line 1 "planted.cu"
// A comment, with a < b and 17.
template <typename T>
__device__ T clamped(T v, T low) { return v < low ? low : v; }

template <typename T>
__global__ void __launch_bounds__(64) planted(const T* __restrict__ x, T* y, T by, long long n) {
    __shared__ T staged[64];
    const long long i = static_cast<long long>(blockIdx.x) * 64 + threadIdx.x;
    staged[threadIdx.x] = i < n ? x[i] * by : 0.f;
    __syncthreads();
    // the neighbour's
    if (i < n && i > 0) y[i] = clamped(staged[threadIdx.x ^ 1], -1.f) + 2.f;
}
"""

# Runs all mutants of PLANTED against the case that is named, prints {change on line: what killed it}.
CODE = """
import json, sys
import numpy as np
from mutation.trial import Library, Trial, temporary_cache
from tinytorch_gpu.backend import kernel

folder = temporary_cache()
text, path = sys.stdin.read(), folder.name + "/planted.cu"
open(path, "w").write(text)
planted = kernel.Kernel(path, "planted", types=("float",))
kernel.LIBRARY[:] = [planted]

class Bench:
    def __init__(self, backend, rng):
        self.backend, self.rng = backend, rng

def check(bench, blocks, n, by):
    host = bench.rng.standard_normal(n).astype(np.float32)
    x, y = bench.backend.from_host(host), bench.backend.xp.zeros((n,), np.float32)
    planted((blocks,), (64,), x, y, by, n)
    part = np.zeros(64 * blocks)
    part[:n] = host * np.float32(by)
    want = np.maximum(part[np.arange(n) ^ 1], -1) + 2
    want[0] = 0
    got = bench.backend.to_host(y)
    assert np.allclose(got[4:8], want[4:8], 1e-6), "values"
    return got, want

def weak(bench, dtype):
    check(bench, 1, 64, 1.0)

def strong(bench, dtype):
    for blocks, n in ((1, 64), (2, 65), (2, 127), (3, 130)):
        got, want = check(bench, blocks, n, 3.0)
        assert np.allclose(got, want, 1e-6), "values"

case = {"weak": weak, "strong": strong}[sys.argv[1]]
trial = Trial(Library({path: text}), {case: ("planted",)}, [np.float32], {"planted"}, Bench)
targets = trial.targets()
trial.library.install()
trial.baseline([case], 1)
assert trial.all(targets, 2, lambda target: None)
print(json.dumps({t.mutant.key.split(" | ", 1)[1]: t.verdict for t in targets}))
"""


@pytest.fixture(autouse=True)
def once(request):
    """The same with each --device: the simulated run leaves them to the first."""
    if request.config.getoption("--device") == "sim":
        pytest.skip("the same as with --device cpu")


def verdicts(case):
    done = subprocess.run([sys.executable, "-c", CODE, case], input=PLANTED, capture_output=True, text=True,
                          timeout=300, env={
                              **os.environ, "TINYTORCH_EMULATOR_THREADS": "1",
                              "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def survivors(found):
    return {key for key, verdict in found.items() if verdict == "survived"}


def test_a_weak_test_lets_mutants_live_and_a_strong_one_does_not():
    if emulator.unavailable():
        pytest.skip(emulator.unavailable())
    found = verdicts("weak")
    # it looks at four values of a whole block, times one
    read = "staged[threadIdx.x] = i < n ? x[i] * by : 0.f;"
    write = "if (i < n && i > 0) y[i] = clamped(staged[threadIdx.x ^ 1], -1.f) + 2.f;"
    assert {f"{read} | i < n -> true", f"{read} | * -> /", f"{read} | 0.f -> 1.f", f"{write} | && without i < n",
            f"{write} | > -> >="} <= survivors(found)
    strong = verdicts("strong")
    assert set(strong) == set(found)
    # where both are equal it does not matter which is taken
    assert survivors(strong) == {"__device__ T clamped(T v, T low) { return v < low ? low : v; } | < -> <="}
    kinds = {key.rpartition(" | ")[2]: verdict for key, verdict in strong.items()}
    assert kinds["drop __syncthreads()"] in ("fast: values", "check: race")
    assert kinds["[64] -> [64 - 1]"] == "check: bounds"  # in the fast build nobody sees it


CHANGES = {
    "if (a < b) x[0] = 1.f;": {"a < b -> true", "a < b -> false", "< -> <=", "< -> >=", "0 -> 1", "1.f -> 0.f",
                               "drop x[0] = 1.f"},
    "x[a] += 3.f * x[b] - 0.5f;": {"drop x[a] += 3.f * x[b] - 0.5f", "+= -> -=", "3.f -> 3.0300000000000002f", "* -> /",
                                   "- -> +", "0.5f -> 0.505f"},
    "for (int k = 0; k < 8; ++k) ;": {"0 -> 1", "k < 8 -> false", "< -> <=", "< -> >=", "8 -> 7", "8 -> 9",
                                      "++k -> k += 2"},
    "const bool c = a == b && !d || x[a] != 0.f;": {
        "|| without a == b && !d", "|| without x[a] != 0.f", "|| -> &&", "&& without a == b", "&& without !d",
        "&& -> ||", "== -> !=", "!d without !", "!= -> ==", "0.f -> 1.f"},
    "__syncwarp();": {"drop __syncwarp()"},
    "float v = __shfl_xor_sync(0xffffffffu, x[a], 16);": {
        "__shfl_xor_sync -> __shfl_down_sync", "value and distance swapped", "0xffffffffu -> 0xfffffffeu", "16 -> 15",
        "16 -> 17"},
    "float v = static_cast<float>(a) / static_cast<long long>(b);": {"without static_cast<float>", "/ -> *"},
    "float v[4]; x[blockIdx.x << 1] = -v[a];": {
        "[4] -> [4 - 1]", "drop x[blockIdx.x << 1] = -v[a]", "blockIdx.x -> blockIdx.y", "<< -> >>", "1 -> 0",
        "-v[a] without -"},
    "if constexpr (sizeof(a) == 4) return;": {"sizeof(a) == 4 -> true", "sizeof(a) == 4 -> false"},
    "constexpr int W = 16 / sizeof(float);": {"16 -> 15", "16 -> 17", "/ -> *"},
    'static_assert(sizeof(a) == 4, "four"); using T = float; #pragma unroll 8\n': set(),
    "float* p = x + a; a = reinterpret_cast<size_t>(p) & 15 ? a : b;": {
        "+ -> -", "drop a = reinterpret_cast<size_t>(p) & 15 ? a : b", "& -> |", "15 -> 14", "15 -> 16",
        "reinterpret_cast<size_t>(p) & 15 -> true", "reinterpret_cast<size_t>(p) & 15 -> false"},
}


@pytest.mark.parametrize("body", CHANGES)
def test_the_mutants_of_a_statement(body):
    source = Instrumented(f"__global__ void k(float* x, int a, int b, bool d) {{ {body} }}\n".replace(" #pr", "\n#pr"))
    found = [m.change for m in source.mutants]
    assert set(found) == CHANGES[body] and len(found) == len(set(found))


def test_every_source_of_the_library_compiles_with_its_mutants():
    if emulator.unavailable():
        pytest.skip(emulator.unavailable())
    source = Instrumented("".join(f"__global__ void k{i}(float* x, int a, int b, bool d) {{ {body} }}\n".replace(
        " #pr", "\n#pr") for i, body in enumerate(CHANGES)))
    text = source.text({(r.file, r.name) for r in source.regions})
    done = subprocess.run([emulator.build.compiler()[0], *emulator.build._flags(False), "-O0", "-fsyntax-only",
                           "-include", emulator.build.LANGUAGE, "-x", "c++", "-"], input=text, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr


def test_keys_stay_when_lines_move_and_places_follow():
    first = Instrumented(PLANTED)
    moved = Instrumented(PLANTED.replace("// A comment", "\n// Another comment\n\n/* longer */\n// A comment"))
    assert [m.key for m in first.mutants] == [m.key for m in moved.mutants]
    assert [m.line + 4 for m in first.mutants] == [m.line for m in moved.mutants]
    assert len({m.key for m in first.mutants}) == len(first.mutants)
    assert first.mutants[0].place == "planted.cu:3:43:condition"
    numbers = [m.number for m in first.mutants if not m.edits]
    assert sorted(numbers) == list(range(1, len(numbers) + 1))


def test_regions_and_what_leads_to_them():
    text = "constexpr int A = 1;\nstruct S { static constexpr int w = A; };\n__device__ int f() { return S::w; }\n" \
           "__device__ int g() { return 2; }\n__global__ void k(int* x) { *x = f(); }\n__global__ void l(int* x) {}\n"
    source = Instrumented(text)
    closure = Closure(source.regions)
    assert [r.name for r in source.regions] == ["A", "S", "f", "g", "k", "l"]
    assert closure.kernels("A") == ["k"] and closure.kernels("g") == [] and closure.below["k"] == {"k", "f", "S", "A"}


def test_a_single_mutant_is_the_source_with_one_change():
    source = Instrumented("constexpr int A = 8 + 1;\n__global__ void k(int* x) { *x = A; }\n")
    assert [source.alone(m).split(";")[0] for m in source.mutants if m.edits] == [
        "constexpr int A = 7 + 1", "constexpr int A = 9 + 1", "constexpr int A = 8 - 1", "constexpr int A = 8 + 0"]


def test_hashes_of_cases_follow_what_they_use():
    text = "LIMIT = 3\ndef helper(x): return x < LIMIT\ndef one(b): helper(b)  # why\ndef two(b): pass\n"
    before = mutants.case_sources(text)
    assert mutants.case_sources(text.replace("  # why", "")) == before
    after = mutants.case_sources(text.replace("LIMIT = 3", "LIMIT = 4"))
    assert after["one"] != before["one"] and after["two"] == before["two"]


def test_verdict_and_stale_regions():
    rows = {"a.cu:f": {"source": "1", "tests": "2", "mutants": 100, "killed": 96, "survivors": [{"mutant": "m"}]}}
    assert mutants.verdict(rows, {"m": "equivalent"}) == []
    assert "without a reason" in mutants.verdict(rows, {})[0]
    rows["a.cu:f"]["killed"] = 94
    assert "less than 95%" in mutants.verdict(rows, {"m": "equivalent"})[0]

    class Now:
        hashes = {"a.cu:f": {"source": "1", "tests": "2"}, "a.cu:g": {"source": "1", "tests": "2"}}

    assert mutants.stale(Now, rows) == ["a.cu:g"]
    Now.hashes["a.cu:f"]["tests"] = "3"
    assert mutants.stale(Now, rows) == ["a.cu:f", "a.cu:g"]


def test_reasons():
    known = mutants.Reasons([{"reason": "equal", "mutants": ["a.cu f | x < y; | < -> <=", "…h | …size… | + -> -"]}])
    assert known.get("a.cu f | x < y; | < -> <=") == known.get("b.cuh h | (size + 1) | + -> -") == "equal"
    assert known.get("a.cu f | x < y; | < -> >=") == ""
    assert known.idle(["a.cu f | x < y; | < -> <="]) == ["…h | …size… | + -> -"]
    written = mutants.reasons().rules
    assert len({name for name, *_ in written}) == len(written) and all(len(reason) > 10 for *_, reason in written)
