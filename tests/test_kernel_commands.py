"""tinytorch-gpu kernels, kernel check, kernel bench: what they print, their exit status, who launches which kernel."""
from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from case import ours
from cases import CASES
from test_kernel import OPERATORS, gradients
from test_ops import cotangents, differentiable, our_gradients, our_inputs

import tinytorch_gpu as tt
from tinytorch_gpu import cli
from tinytorch_gpu.autograd.node import REGISTRY
from tinytorch_gpu.backend.device import backend_for
from tinytorch_gpu.backend.device import device as Device
from tinytorch_gpu.backend.kernel import Kernel
from tinytorch_gpu.backend.simulated import emulator
from tinytorch_gpu.kernel_commands import figures, launch, library, nvrtc, screen, table

ROOT = Path(__file__).resolve().parents[1]
SIM = backend_for(Device("sim"))
PAGE = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
needs_emulator = pytest.mark.skipif(bool(emulator.unavailable()), reason=str(emulator.unavailable()))
SCALE = """// y = by x
template <typename T>
__global__ void scale(const T* x, T* y, float by, long long n) {
    const long long i = blockIdx.x * 256ll + threadIdx.x;
    if (i < n) y[i] = static_cast<T>(static_cast<float>(x[i]) * by);
}
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command in a folder; (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def command(*argv):
        capsys.readouterr()
        try:
            status = cli.main([str(a) for a in argv])
        except SystemExit as e:  # argparse
            status = e.code
        out, err = capsys.readouterr()
        return status, out, err

    return command


@pytest.fixture
def no_nvrtc(monkeypatch):
    """Tests of what the emulator says need not wait for NVRTC."""
    def missing(*args):
        raise nvrtc.NvrtcMissing("[nvrtc] found no libnvrtc")

    monkeypatch.setattr("tinytorch_gpu.kernel_commands.check.Nvrtc", missing)


@pytest.fixture
def needs_nvrtc():
    try:
        nvrtc.Nvrtc()
    except nvrtc.NvrtcMissing as e:
        pytest.skip(str(e))


def write(text, name="mine.cu"):
    Path(name).write_text(text)
    return name


# kernels

@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_the_table_fits_the_screen(width, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    status, out, err = run("kernels")
    assert status == 0 and not err
    assert max(map(len, out.splitlines())) <= width
    for row in table.rows():
        assert row.kernel in out
        assert all(name in out for name in row.operators)
    assert "not yet measured" in out and "sm_70" in out and "sm_120" in out


def test_a_pipe_gets_a_line_for_each_kernel():
    environment = {k: v for k, v in os.environ.items() if k != "COLUMNS"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", "tinytorch_gpu", "kernels"], capture_output=True, cwd=ROOT,
                          env=environment | {"PYTHONIOENCODING": "ascii"}, check=True)
    lines = done.stdout.decode("ascii").splitlines()  # no box characters on such a screen
    rows = table.rows()
    assert [line.split()[0].rstrip("*") for line in lines[2:2 + len(rows)]] == [row.kernel for row in rows]
    assert set(lines[1]) == {"-", " "} and not any("\033" in line for line in lines)
    head = subprocess.Popen([sys.executable, "-m", "tinytorch_gpu", "kernels"], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, cwd=ROOT, env=environment)
    head.stdout.readline()
    head.stdout.close()  # as `| head -1`
    assert not head.stderr.read() and head.wait() in (0, 1)
    head.stderr.close()


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def test_colour_is_for_terminals_that_want_it(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert screen.Screen(Terminal()).strong("x") == "\033[1mx\033[0m"
    assert screen.Screen(io.StringIO()).strong("x") == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert screen.Screen(Terminal()).strong("x") == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert screen.Screen(Terminal()).strong("x") == "x"


def test_a_screen_that_cannot_show_a_character_shows_its_number():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1")
    screen.Screen(stream).line("grün → gelb")
    stream.flush()
    assert raw.getvalue() == b"gr\xfcn \\u2192 gelb\n"


def test_one_architecture_and_one_kernel(run, monkeypatch):
    status, out, _ = run("kernels", "--arch", "sm_90")
    assert status == 0 and "sm_90" in out and "sm_80" not in out
    status, out, _ = run("kernels", "adam")
    named = next(row for row in table.rows() if row.kernel == "adam")
    assert status == 0 and all(e[len("adam"):] in out for e in named.compiled)
    assert "softmax" not in out


def test_json(run):
    status, out, _ = run("kernels", "--json", "--arch", "sm_80", "softmax_forward")
    (row,) = json.loads(out)
    assert status == 0 and row["kernel"] == "softmax_forward" and row["file"] == "rows.cu"
    assert "Softmax" in row["operators"] and row["dtypes"] == ["float32", "float16", "bfloat16"]
    for compiled in row["compiled"].values():
        assert set(compiled) <= {"sm_80"} and all(set(c) == set(figures.COLUMNS) for c in compiled.values() if c)


@pytest.mark.parametrize("arguments, message", [
    (["--arch", "sm_71"], "[kernels] no figures of sm_71"), (["nothing"], "[kernels] no kernel nothing: there are "),
    (["--markdown", "adam"], "[kernels] --markdown is the table of all kernels"),
])
def test_wrong_questions(run, arguments, message):
    status, out, err = run("kernels", *arguments)
    assert status == 1 and not out and err.startswith(message) and err.count("\n") == 1


@pytest.fixture
def results(tmp_path, monkeypatch):
    """bench/results of a checkout of its own."""
    monkeypatch.setattr(figures, "_results", lambda: tmp_path)
    return tmp_path


def test_without_recorded_figures_it_says_so(run, results):
    status, out, _ = run("kernels", "rotary")
    assert status == 0 and "this installation has no kernels.json" in out and "not compiled yet" in out
    (results / "kernels.json").write_text('{"columns": []}')
    status, out, err = run("kernels")
    assert status == 1 and "cannot be read" in err and "compile_matrix.py --all" in err


def test_what_a_gpu_measured_is_shown(run, results):
    rows = [{"run": "1", "kernel": "rotary", "dtype": "float32", "GB/s": 9999.0, "gpu": "G"},
            {"run": "2", "kernel": "rotary", "dtype": "float32", "GB/s": 2000.4, "gpu": "G"},
            {"run": "2", "kernel": "rotary", "dtype": "float32", "GB/s": 1500.0, "gpu": "G"},
            {"run": "2", "kernel": "rotary", "dtype": "float16", "GB/s": 1800.0, "gpu": "G"},
            {"run": "2", "op": "matmul", "dtype": "float16"}]
    (results / "gpu.json").write_text(json.dumps({"rows": rows}))
    status, out, _ = run("kernels", "rotary")
    assert status == 0 and "2000 float32, 1800 float16" in out and "no GPU has measured" not in out
    (results / "gpu.json").write_text('{"rows": [{"kernel": "rotary", "GB/s": "fast"}]}')
    status, out, err = run("kernels")
    assert status == 1 and "gpu.json cannot be read" in err


def test_a_source_that_has_changed_since_is_marked(run, monkeypatch):
    monkeypatch.setattr(figures, "state", lambda *a: "another")
    status, out, _ = run("kernels")
    assert status == 0 and "changed since it was compiled" in out


def test_the_table_of_the_documentation_is_what_the_command_prints():
    measured = re.sub(r"\|[^|\n]*\|$", "|", table.markdown(), flags=re.M)  # figures of GPUs come and go
    found = re.sub(r"\|[^|\n]*\|$", "|", PAGE, flags=re.M)
    assert measured in found, "run python tests/make_kernel_table.py"


@pytest.fixture
def documented(tmp_path):
    """The file and the program of the page, where it tells the reader to put them."""
    source = next(b for b in PAGE.split("```cuda\n")[1:] if "norms_backward" in b).partition("```")[0]
    (tmp_path / "norms.cu").write_text(source)
    blocks = [b.partition("```")[0] for b in PAGE.split("```python\n")[1:]]
    (program,) = [b for b in blocks if "import numpy" in b]
    return program


@needs_emulator
def test_the_program_of_the_documentation_runs(documented, run):
    space = {"__name__": "documented"}
    exec(compile(documented, "docs/kernels.md", "exec"), space)
    x, zero = space["x"], np.float16(0)
    with tt.kernel.checking(), tt.no_grad():
        space["x"][2] = zero  # what the program says of rows of zeros
    x.grad = None
    space["RowNorms"].apply(x).sum().backward()
    assert not x.grad[2].any() and not x.grad.isnan().any()


@needs_emulator
def test_the_commands_of_the_documentation_print_what_it_shows(documented, run):
    shown = re.findall(r"(?m)^    \$ tinytorch-gpu (kernel check .*)\n((?:    .*\n|\n(?=    ))+)", PAGE)
    assert len(shown) == 2
    for i, (command, output) in enumerate(shown):
        if i == 1:
            text = Path("norms.cu").read_text()
            write(text.replace("c < columns; c += blockDim.x) {", "c <= columns; c += blockDim.x) {"), "norms.cu")
        status, out, _ = run(*command.split())
        expected = re.sub(r"(?m)^    ", "", output).strip("\n")
        # above the empty line is what NVRTC says: it may not be here, or be another release
        kept = [[line.rstrip() for line in text.partition("\n\n")[2].strip("\n").splitlines()
                 if not re.match(r" +\w+\.cuh:", line)] for text in (out, expected)]  # headers may change
        assert kept[0] == kept[1] and kept[0], out
        assert status == i


# who launches what

def test_every_kernel_has_somebody_who_launches_it():
    library.launchers()
    idle = {row.kernel for row in table.rows() if not row.operators}
    assert not idle, f"no operator, optimizer or function launches {sorted(idle)}"


@pytest.fixture
def launches(monkeypatch):
    """{operator: kernels} of what is launched while an operator's own code runs; "" for other code."""
    seen, inside = {}, []
    plain = Kernel.__call__

    def counting(self, *args, **options):
        if str(self.source).endswith(".cu"):
            seen.setdefault(inside[-1] if inside else "", set()).add(self.signature.name)
        return plain(self, *args, **options)

    def entering(apply):
        def entered(cls, *args, **options):
            inside.append(cls.__name__)
            try:
                return apply(cls, *args, **options)
            finally:
                inside.pop()
        return classmethod(entered)

    monkeypatch.setattr(Kernel, "__call__", counting)
    for base in {c for found in REGISTRY.values() for c in found.__mro__ if "apply" in vars(c)}:
        monkeypatch.setattr(base, "apply", entering(vars(base)["apply"].__func__))
    return seen


@needs_emulator
def test_operators_launch_the_kernels_that_the_code_names(launches, rng):
    """What was found in the code is true: an operator launches no other kernel, and each of these launches its own."""
    for _, fn, shapes, *_ in OPERATORS:
        gradients(fn, *[rng.standard_normal(s) for s in shapes])
    ran = {(operator, kernel) for operator, names in launches.items() for kernel in names if operator}
    said = {(operator, kernel) for (_, kernel), names in library.bound_by().items() for operator in names}
    assert ran and not ran - said
    seen = {operator for operator, _ in ran}
    assert {"GELU", "SiLU", "Softmax", "SoftmaxBackward", "LayerNorm", "NormalizeBackward", "CrossEntropy"} <= seen
    # norm's gradients of weight and bias are added up by another file's kernel
    assert ("NormalizeBackward", "column_sums") in ran


@needs_emulator
def test_every_operator_that_names_a_kernel_launches_one(launches, rng, request):
    """All lines of the table of operators, forward and backward: nobody launches more than was found in the code, and
    no operator less. Some launch one of several (embedding_join is for an index that fills pieces of the batch)."""
    if request.config.getoption("--device") != "sim":
        pytest.skip("with --device sim, whose suite builds the kernels anyway")
    for case in CASES:
        if "float32" in case.dtypes():
            inputs = our_inputs(case, case.draw(rng, "float32"))
            outs = case.fn(ours, *inputs)
            if case.differentiable:
                our_gradients(case, inputs, cotangents(rng, differentiable(outs)), outs)
    ran = {(operator, kernel) for operator, names in launches.items() for kernel in names if operator}
    said = {(operator, kernel) for (_, kernel), names in library.bound_by().items() for operator in names}
    assert not ran - said
    operators = {operator for operator, _ in said if operator in REGISTRY}
    assert not operators - {operator for operator, _ in ran}


def test_kernels_are_found_through_helpers_imports_and_methods(monkeypatch):
    source = "__global__ void planted(float* x) { x[0] = 1.f; }"
    one, two, three = (Kernel(source) for _ in range(3))
    module = sys.modules[__name__]
    monkeypatch.setattr(library, "PACKAGE", "test_kernel_commands")
    monkeypatch.setattr(module, "KERNELS", {"a": [one], "b": (two,)}, raising=False)

    def helper():
        return KERNELS["a"]  # noqa: F821

    class Owner:
        def method(self):
            def inner():
                return self.other()
            return inner

        def other(self):
            return three

    helper.__module__ = Owner.other.__module__ = Owner.method.__module__ = "test_kernel_commands.inside"
    assert library._reached([helper]) == {one, two}
    monkeypatch.setattr(module, "three", three, raising=False)
    other = eval("lambda self: three", vars(module))
    other.__module__ = "test_kernel_commands.inside"
    Owner.other = other
    assert library._reached([Owner.method], Owner) == {three}
    assert library._reached([Owner.method]) == set()  # of another class


# kernel check

@needs_emulator
def test_a_clean_kernel(run, no_nvrtc):
    status, out, err = run("kernel", "check", write(SCALE), "--type", "T=float,__half")
    assert status == 0 and not err
    assert out.count("no fault in 4 launches x 4 orders of threads") == 2
    assert "scale<float>" in out and "scale<__half>" in out and "x float16[4099]" in out
    # 4099 floats: 129 warps, 32 bytes for 8 of them; nothing is asked for twice
    assert re.search(r"^ *5 +global read +129 +513 +513 +if \(i < n\)", out, re.M)
    assert "registers and spills: not known. [nvrtc]" in out


@needs_emulator
def test_sectors_and_bank_conflicts_of_each_line(run, no_nvrtc):
    write("""// check: k x=[1024] y=[32] block=32 grid=1
__global__ void k(const float* x, float* y) {
    __shared__ float room[1024];
    for (int i = 0; i < 32; ++i) room[threadIdx.x + 32 * i] = 1.f;
    __syncthreads();
    y[threadIdx.x] = x[32 * threadIdx.x]
        + room[32 * threadIdx.x];
}
""")
    status, out, _ = run("kernel", "check", "mine.cu")
    assert status == 0
    assert re.search(r"^ *4 +shared write +32 +32 +32 +for", out, re.M)
    assert re.search(r"^ *6 +global read +1 +32 +4 +8\.0x", out, re.M)  # a sector for each of 32 floats, 4 would do
    assert re.search(r"^ *7 +shared read +1 +32 +1 +32\.0x", out, re.M)  # one bank for all
    assert re.search(r"^ *6 +global write +1 +4 +4 +y\[", out, re.M)


THREE = """// check: three n=1000 x=[n] y=[n] z=[n]
__global__ void three(const float* x, float* y, float* z, int n) {
    __shared__ float staged[256];
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    staged[threadIdx.x] = i < n ? x[i + 1] : 0.f;
    z[i] = 1.f;
    if (i < n) y[i] = staged[255 - threadIdx.x];
}
"""


@needs_emulator
def test_all_faults_are_reported_with_line_block_and_thread(run, no_nvrtc):
    status, out, _ = run("kernel", "check", write(THREE))
    flat = " ".join(out.split())
    assert status == 1 and "3 faults in 1 launch" in out
    assert re.search(r"mine\.cu:5: out of bounds: reads 4 bytes 0 bytes past the end of x \(float32, shape \(1000,\), "
                     r"4000 bytes\); block \(3, 0, 0\), thread \(231, 0, 0\)", flat)
    assert re.search(r"mine\.cu:6: out of bounds: writes 4 bytes \d+ bytes past the end of z", flat)
    assert re.search(r"mine\.cu:7: uninitialised: reads 4 bytes at byte \d+ of shared array staged", flat)
    assert "| z[i] = 1.f;" in out


@needs_emulator
def test_results_that_depend_on_the_order_of_threads(run, no_nvrtc):
    text = "__global__ void last(float* y) { atomicExch(y, float(threadIdx.x)); }"
    status, out, _ = run("kernel", "check", write(text), "--arg", "y=[1]:0")
    flat = " ".join(out.split())
    assert "in 1 launch x" in flat  # there is nothing that another size would change
    assert status == 1 and re.search(r"different results: y\[0\] is 255\.0 in ascending order and 0\.0 in desc", flat)
    total = "__global__ void total(const float* x, float* y) { atomicAdd(y, x[threadIdx.x]); }"
    given = ("kernel", "check", write(total), "--arg", "x=[256]", "--arg", "y=[1]:0")
    assert run(*given)[0] == 1
    assert run(*given, "--rtol", "1e-3")[0] == 0


@needs_emulator
def test_elements_that_nothing_wrote_are_a_note(run, no_nvrtc):
    status, out, _ = run("kernel", "check", write(SCALE), "--size", 1000, "--grid", 3)
    assert status == 0 and "note y: 232 of 1000 elements were not written" in out


@needs_emulator
def test_an_output_that_is_read(run, no_nvrtc):
    text = "__global__ void twice(float* y, int n) { const int i = threadIdx.x; if (i < n) y[i] *= 2.f; }"
    status, out, _ = run("kernel", "check", write(text), "--size", 100)
    flat = " ".join(out.split())
    assert status == 1 and "y was taken for an output" in flat and "--arg 'y=[...]:random'" in flat
    assert run("kernel", "check", "mine.cu", "--arg", "n=100", "--arg", "y=[n]:random")[0] == 0


@needs_emulator
def test_lines_in_the_file_and_options_over_them(run, no_nvrtc):
    text = """
    template <typename T, int K>
    __global__ void pick(const T* x, const int* index, const T* bias, T* y, int n, float f) {
        const int i = blockIdx.x * blockDim.x + threadIdx.x;
        if (i < n) y[i] = T(float(x[index[i]]) * f + K + LIMIT + (bias == nullptr ? 0.f : float(bias[i])));
    }
    // check: T=float K=2 n=70 x=[7,3] index=[n]:0..7*3 bias=null y=[n] grid=-(-n//32) block=32 f=0.5
    // check: pick T=float16 K=-1 n=5 x=[9] index=[n]:3 bias=[n] y=[n] f=2*n
    """
    given = ("kernel", "check", write(text), "--define", "LIMIT=3")
    status, out, _ = run(*given)
    assert status == 0
    flat = " ".join(out.split())
    assert "pick<float, 2> grid (3,), block (32,), x float32[7, 3], index int32[70] of 0 to 20, bias null" in flat
    assert "pick<__half, -1> grid (1,), block (256,), x float16[9], index int32[5] of 3, bias float16[5]" in flat
    assert "n 5, f 10.0" in flat
    status, out, _ = run(*given, "--arg", "x=[5]", "--define", "K=1", "--type", "T=float")
    assert status == 1 and "pick<float, 1>" in out and "past the end of x" in " ".join(out.split())


@needs_emulator
def test_guessed_numbers_are_said(run, no_nvrtc):
    text = "__global__ void f(float* y, int n, int stride) { if (threadIdx.x < n) y[threadIdx.x * stride] = 1.f; }"
    status, out, _ = run("kernel", "check", write(text), "--size", 9)
    assert status == 0 and "note stride: nobody gave a number, 1 is a guess" in " ".join(out.split())
    status, out, _ = run("kernel", "check", "mine.cu", "--size", 9, "--arg", "stride=1")
    assert status == 0 and "guess" not in out


@needs_emulator
def test_a_kernel_of_the_library(run, no_nvrtc):
    status, out, _ = run("kernel", "check", "rows.cu", "--name", "softmax_forward", "--size", 300)
    assert status == 0 and "softmax_forward<float, false>" in out and "vector.cuh:" in out


@needs_emulator
def test_printf(run, no_nvrtc):
    text = '__global__ void f(int* x, int n) { if (threadIdx.x == 0) printf("n is %d, %s\\n", n, "here"); x[0] = n; }'
    status, out, _ = run("kernel", "check", write(text), "--size", 1, "--block", 1)
    assert status == 0 and out.count("n is 1, here\n") == 1  # not once for every order


@needs_emulator
def test_printf_of_a_launch(capsys):
    kernel = Kernel('__global__ void f(const float* x) { printf("%d: %.2f\\n", threadIdx.x, x[threadIdx.x]); }')
    kernel((1,), (3,), SIM.from_host(np.float32([1, 2.5, -3])))
    assert capsys.readouterr().out == "0: 1.00\n1: 2.50\n2: -3.00\n"


OUTSIDE = {
    "cooperative groups": "#include <cooperative_groups.h>\n__global__ void f(float* x, int n) {\n"
                          "    cooperative_groups::this_thread_block().sync();\n    x[0] = 1.f;\n}\n",
    "wmma": "#include <mma.h>\n__global__ void f(float* x, int n) {\n    using namespace nvcuda;\n"
            "    wmma::fragment<wmma::accumulator, 16, 16, 16, float> a;\n    wmma::fill_fragment(a, 1.f);\n"
            "    wmma::store_matrix_sync(x, a, 16, wmma::mem_row_major);\n}\n",
    "CUB": "#include <cub/block/block_reduce.cuh>\n__global__ void f(float* x, int n) {\n"
           "    using Reduce = cub::BlockReduce<float, 128>;\n    __shared__ typename Reduce::TempStorage room;\n"
           "    const float s = Reduce(room).Sum(x[threadIdx.x]);\n    if (threadIdx.x == 0) x[0] = s;\n}\n",
}


@needs_emulator
@pytest.mark.parametrize("what", OUTSIDE)
def test_kernels_outside_of_the_vocabulary_are_compiled_and_not_checked(what, run, request):
    if what == "CUB":  # NVRTC takes 5 seconds for its headers
        request.getfixturevalue("no_nvrtc")
    status, out, _ = run("kernel", "check", write(OUTSIDE[what]), "--arch", "sm_90")
    assert status == 3 and f"uses {what}, which the emulator does not have: not checked" in " ".join(out.split())
    assert re.search(r"f sm_90 +\d+", out) or "[nvrtc]" in out  # NVRTC has compiled it, where it is
    with pytest.raises(NotImplementedError, match=rf"mine\.cu:\d uses {what}"):
        Kernel(Path("mine.cu"))((1,), (32,), SIM.xp.zeros(256, np.float32), 256)


@needs_emulator
def test_what_only_nvrtc_compiles_is_not_checked(run, needs_nvrtc):
    write("__global__ void f(int* x, int n) { x[0] = __vadd2(x[1], x[2]); }")
    status, out, _ = run("kernel", "check", "mine.cu", "--arch", "sm_90")
    assert status == 3 and "NVRTC compiles what the emulator cannot" in out and "mine.cu:1" in out


@pytest.mark.parametrize("by", ["nvrtc", pytest.param("g++", marks=needs_emulator)])
def test_a_syntax_error_points_into_the_users_file(by, run, request):
    request.getfixturevalue("no_nvrtc" if by == "g++" else "needs_nvrtc")
    write('#include "vector.cuh"\n\n__global__ void mine(float* x, int n) {\n    x[0] = undeclared;\n}\n')
    status, out, _ = run("kernel", "check", "mine.cu", "--arch", "sm_90")
    assert status == 2 and re.search(r"^mine\.cu[:(]4.*undeclared", out, re.M) and "Traceback" not in out


def test_registers_and_spills(run, monkeypatch, needs_nvrtc):
    monkeypatch.setattr(emulator, "unavailable", lambda: "[emulator] g++ was not found: install g++ 10 or newer")
    status, out, _ = run("kernel", "check", write(SCALE), "--arch", "sm_90", "--arch", "sm_80", "--type", "T=__half")
    assert status == 3 and "not checked: [emulator] g++ was not found: install g++" in out
    assert re.search(r"scale<__half> sm_80 sm_90 +\d+ +0 +0", out)  # no header of halves stands in the file
    status, _, err = run("kernel", "check", "mine.cu", "--arch", "sm_35")
    assert status == 2 and "does not compile for sm_35" in err


def test_what_an_older_architecture_lacks_is_said(run, monkeypatch, needs_nvrtc):
    monkeypatch.setattr(emulator, "unavailable", lambda: "no emulator")
    write("__global__ void f(int* x, int n) { x[0] = __reduce_add_sync(~0u, x[threadIdx.x % n]); }")
    status, out, _ = run("kernel", "check", "mine.cu")
    flat = " ".join(out.split())
    assert status == 3 and re.search(r"^f sm_80 ", out, re.M)
    assert re.search(r'not for sm_75: mine\.cu\(1\): error: identifier "__reduce_add_sync"', flat)
    status, out, _ = run("kernel", "check", "mine.cu", "--arch", "sm_75")
    assert status == 2 and "does not compile for sm_75" in out


WRONG = [
    (["nothing.cu"], "[kernel] nothing.cu is not there; the library has "), (["."], "[kernel] . is a folder"),
    (["empty.cu"], "empty.cu has no __global__ function"),
    (["mine.cu", "--name", "other"], "has no kernel other: it has scale"),
    (["mine.cu", "--arg", "q=1"], "no kernel has q: they have scale(const T* x"),
    (["mine.cu", "--arg", "n"], "--arg 'n': write NAME=VALUE"),
    (["mine.cu", "--arg", "n=1", "--arg", "n=2"], "n is given twice"),
    (["mine.cu", "--arg", "x=7"], "write an array as [shape]"),
    (["mine.cu", "--arg", "x=[n]:out"], "the kernel only reads it"),
    (["mine.cu", "--arg", "x=[m]"], "x: 'm' is no number; it may use + - * / // %, brackets and by, n"),
    (["mine.cu", "--arg", "x=[1.5]"], "is not one to three whole numbers"),
    (["mine.cu", "--arg", "x=quux[4]"], "no dtype 'quux'"), (["mine.cu", "--type", "T=quux"], "no dtype 'quux'"),
    (["mine.cu", "--arg", "n=1.5"], "n=1.5 is no whole number"), (["mine.cu", "--arg", "n=1//0"], "cannot be computed"),
    (["mine.cu", "--arg", "n=__import__('os')"], "is no number"), (["mine.cu", "--arg", "n=2)"], "cannot be computed"),
    (["mine.cu", "--size", "0"], "0 is not above 0"), (["mine.cu", "--grid", "x"], "grid: 'x' is no number"),
    (["mine.cu", "--block", "2048"], "block x is 2048"), (["mine.cu", "--shared", "999999"], "dynamic shared memory"),
    (["line.cu"], "line.cu:1: other is none of the kernels k"), (["key.cu"], "k has no z: it has "),
    (["struct.cu"], "whose type 'Pair' cannot be checked"),
    (["constant.cu"], "needs a value for its template's K: --define K=..."), ([], "required: FILE.cu"),
]


@needs_emulator
@pytest.mark.parametrize("arguments, message", WRONG, ids=[m for _, m in WRONG])
def test_wrong_usage(arguments, message, run, no_nvrtc):
    write(SCALE)
    write("int x;", "empty.cu")
    write("// check: other n=1\n__global__ void k(float* x, int n) {}", "line.cu")
    write("// check: k z=1\n__global__ void k(float* x, int n) {}", "key.cu")
    write("template <int K> __global__ void k(float* x, int n) {}", "constant.cu")
    write("struct Pair { int a, b; };\n__global__ void k(Pair p, float* x) {}", "struct.cu")
    status, _, err = run("kernel", "check", *arguments)
    assert status == 2 and message in err, err
    assert "Traceback" not in err


ENDLESS = """__global__ void endless(const float* x, float* y, int n) {
    volatile float v = 1.f;
    while (v > 0.f) v = x[0];
    y[0] = v;
}
"""


@needs_emulator
def test_an_endless_loop_is_one_fault(run, no_nvrtc, monkeypatch):
    from tinytorch_gpu.kernel_commands import faults

    launched, launch = [], faults._run
    monkeypatch.setattr(faults, "_run", lambda *a, **k: (launched.append(a), launch(*a, **k))[1])
    monkeypatch.setenv("TINYTORCH_EMULATOR_SECONDS", "0.3")
    status, out, _ = run("kernel", "check", write(ENDLESS), "--arg", "x=[1]:1")
    assert status == 1 and "mine.cu:3: endless loop" in out and "1 fault in" in out
    assert len(launched) == 1  # not four orders of four sizes, each as long as the limit


@needs_emulator
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_a_launch_at_once(tmp_path):
    (tmp_path / "mine.cu").write_text(ENDLESS.replace(
        "volatile float v", 'if (threadIdx.x == 0) printf("in\\n"); volatile float v'))
    child = subprocess.Popen(
        [sys.executable, "-u", "-c", "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
         "from tinytorch_gpu.kernel_commands import background\n"
         "run = background.threading.Thread.start\n"
         "background.threading.Thread.start = lambda t: (run(t), print('launched', flush=True))[0]\n"
         "from tinytorch_gpu.cli import main\n"
         "sys.exit(main(['kernel', 'check', 'mine.cu', '--arg', 'x=[1]:1', '--arch', 'sm_90']))"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT), "TINYTORCH_EMULATOR_SECONDS": "1000"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = []
    while not lines or "launched" not in lines[-1]:
        lines.append(child.stdout.readline())
        assert lines[-1], child.stderr.read()
    time.sleep(1.5)  # g++ is done then, or is ended too
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=200)  # the launch goes on for 1000
    assert child.returncode == 130 and err == "stopped\n"


# kernel bench

def test_bench_needs_a_gpu(run, monkeypatch):
    from tinytorch_gpu.backend import device as devices

    if devices.probe().available:
        pytest.skip("a GPU is here")
    status, out, err = run("kernel", "bench", write(SCALE))
    assert status == 2 and not out and err.startswith("[kernel] bench needs a GPU: ") and "--device sim" in err


@needs_emulator
def test_bench_on_the_simulated_device_shows_no_times(run):
    status, out, err = run("kernel", "bench", write(SCALE), "--device", "sim", "--type", "T=float,__half")
    assert status == 0 and not err
    flat = " ".join(out.split())
    assert "simulated: times mean nothing, so none are shown; 2 launches ran" in flat
    assert "n 1000: moves 0.008 MB" in flat and "n 1000: moves 0.004 MB" in flat
    assert "GB/s" not in out and " us" not in out
    status, out, _ = run("kernel", "bench", "mine.cu", "--device", "sim", "--bytes", "16*n", "--size", 100)
    assert status == 0 and "moves 0.0016 MB" in " ".join(out.split())
    for given, message in (("0", "is 0: give what the kernel has to read"), ("x", "is no number")):
        status, _, err = run("kernel", "bench", "mine.cu", "--device", "sim", "--bytes", given)
        assert status == 2 and message in err


@needs_emulator
def test_the_figures_of_bench(monkeypatch, run):
    """The table of a GPU, with the simulated device in its place and times that are known."""
    from tinytorch_gpu.kernel_commands import bench

    class Events:
        clock = 0.0

        class Event:
            def record(self):
                self.time = Events.clock
                Events.clock += 0.25  # milliseconds from one event to the next

            def synchronize(self):
                assert self.time is not None

        get_elapsed_time = staticmethod(lambda start, end: end.time - start.time)

    class Timer(bench._Timer):
        def __init__(self, backend, repeat):
            super().__init__(backend, repeat)
            self.cuda = Events

    monkeypatch.setattr(bench, "_Timer", Timer)
    monkeypatch.setattr(bench, "_gpu", lambda backend: "planted GPU")
    monkeypatch.setattr(bench, "COPY", 1 << 20)
    monkeypatch.setattr(bench, "device", lambda where: Device("sim"))
    status, out, _ = run("kernel", "bench", write(SCALE), "--size", 1000, "--repeat", 4)
    assert status == 0 and "planted GPU; a copy of 1 MiB moves 8 GB/s; 4 launches each" in out
    # 8000 bytes in 250 us are 0.032 GB/s, of the copy's 2 MiB / 250 us = 8.4
    assert re.search(r"0\.008 MB +250\.0 +250\.0 +250\.0 +0\.032 +0%", out)


def test_bytes_of_a_launch(tmp_path):
    (tmp_path / "k.cu").write_text("__global__ void k(const float* x, float* y, float* z, int n) {}")
    file = launch.find(str(tmp_path / "k.cu"))
    (one,) = launch.plan(file, launch.Wish(values={"x": "[n]", "y": "[n]", "z": "[n]:0", "n": "10"}), (5,))
    assert one.moved == 40 + 40 + 2 * 40  # z is read and written
    assert [str(v) for v in one.values] == ["float32[10]", "float32[10]", "float32[10] of 0", "10"]


# installed

def test_a_wheel_has_the_figures_beside_its_sources(tmp_path, monkeypatch):
    from tinytorch_gpu.backend import kernel_source

    inside = tmp_path / "cuda_sources"
    inside.mkdir()
    (inside / "vector.cuh").write_text("")
    monkeypatch.setattr(kernel_source, "_CHECKOUT", tmp_path / "kernels")
    monkeypatch.setattr(kernel_source, "_INSIDE", inside)
    assert figures.kernels_file() is None and figures.measured() == []
    figures.store(inside / "kernels.json", {"a.cu": {"states": {}, "kernels": {"f<float>": {"sm_90": [8, 0, 1]}}}})
    assert figures.kernels_file() == inside / "kernels.json"
    text = (inside / "kernels.json").read_text()
    assert '"f<float>": {"sm_90": [8, 0, 1]}' in text  # an instantiation a line
    assert figures.load(inside / "kernels.json")["files"]["a.cu"]["kernels"]["f<float>"]["sm_90"] == [8, 0, 1]
