"""bench/gpu.py in tiny sizes on the simulated device: every section, its rows, limits and failures."""
from __future__ import annotations

import gc
import importlib
import math
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu.backend import device as devices
from tinytorch_gpu.backend import kernel

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "bench" / "gpu.py"


@pytest.fixture(scope="module")
def bench():
    """The script as a module, with the folder of its parts on the path."""
    before = list(sys.path)
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        yield importlib.import_module("gpu")
    finally:
        sys.path[:] = before


@pytest.fixture(autouse=True)
def once(request):
    if request.config.getoption("--device") != "cpu":
        pytest.skip("always on the simulated device: runs with --device cpu")


@pytest.fixture(autouse=True)
def kept():
    """The sections set the default device and the precision of products."""
    device, precision = devices._process_default, tt.get_float32_matmul_precision()
    yield
    devices._process_default = device
    tt.set_float32_matmul_precision(precision)


JOBS = ["copy", "kernels/activation", "kernels/rows", "kernels/loss", "kernels/optimizer", "host", "gpt2", "curves",
        "acceptance"]


def test_every_section_on_the_simulated_device(bench, tmp_path, capsys):
    """One test, so that the sections run once in whichever process of the test runner."""
    groups = [f"kernels/{g}" for g in bench.GROUPS]
    assert sorted(JOBS) == sorted([s for s in bench.SECTIONS if s != "kernels"] + groups)
    for job in JOBS:
        status = bench.main(["--job", job, "--device", "sim", "--quick", "--run", "one", "--seconds", "100",
                             "--out", str(tmp_path), "--commit", "abc"])
        told = capsys.readouterr()
        assert status == 0, f"{job}: {told.out}\n{told.err}"
        section_is_complete(bench, job, bench.rows.read(tmp_path / "gpu.json"), told.out)
    found = bench.rows.read(tmp_path / "gpu.json")
    sides_train_alike(found)
    bench.table.write(tmp_path / "gpu.json", tmp_path / "gpu.md")
    page_is_complete(bench, found, (tmp_path / "gpu.md").read_text())
    if kernel.ready(devices.backend_for(devices.device("sim"))):
        named = {r["op"] for r in found if "kernel" in r}
        from gpu_bench.kernel_table import CASES, OPTIMIZERS

        assert named == {c.name for c in [*CASES, *OPTIMIZERS] if c.kernel} | {"clip_grad_norm_"}
        uncovered = importlib.import_module("gpu_bench.kernels").uncovered(found)
        assert not uncovered, f"kernels without a case in bench/gpu_bench/kernel_table.py: {uncovered}"


def section_is_complete(bench, job, found, text):
    section = job.partition("/")[0]
    mine = [r for r in found if r["section"] == section]
    assert mine
    for row in mine:
        assert set(bench.rows.COLUMNS) <= set(row)
        assert (row["gpu"], row["driver"], row["run"], row["commit"]) == ("simulated", "", "one", "abc")
        assert row["unit"] in ("s", "nats") or (row["p20"], row["p50"], row["p80"]) == (None, None, None)
        assert not {"GB/s", "share of copy", "peak MiB"} & set(row)
    assert "GB/s" not in text and "TFLOP/s" not in text and "tokens/s" not in text
    by = {row["by"] for row in mine}
    assert by & {"tinytorch_gpu", "copy", "pytest"}
    if importlib.util.find_spec("torch"):
        assert job == "acceptance" or "torch" in by


def sides_train_alike(found):
    """One model, the same weights and batches: the losses of the tiny curves agree."""
    curves = [r for r in found if r["section"] == "curves" and r["by"] == "tinytorch_gpu"]
    assert {r["dtype"] for r in curves} == {"float32", "float16", "bfloat16"}
    if importlib.util.find_spec("torch"):
        for row in curves:
            assert row["largest difference"] <= (1e-4 if row["dtype"] == "float32" else 0.01), row


def page_is_complete(bench, found, page):
    for section in {r["section"] for r in found}:
        assert f"### {bench.table.HEAD[section][0]}" in page
    assert "no figures" in page
    widths = {line.count("|") for line in page.splitlines() if line.startswith("| relu")}
    assert widths == {page.split("### Kernels")[1].split("\n")[2].count("|")}


# the command

def run(*words, **environment):
    return subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=60,
                          env={**os.environ, **environment})


def test_help_without_anything_installed_but_numpy():
    done = run("--help")
    assert done.returncode == 0
    assert "acceptance" in done.stdout and "--minutes" in done.stdout and "--job" not in done.stdout


@pytest.mark.parametrize(("words", "text"), [
    (["--only", "copy,speed"], "unknown section speed: choose from acceptance, copy"),
    (["--skip", "x"], "unknown section x"),
    (["--only", "copy", "--skip", "copy"], "no section is left"),
    (["--minutes", "0"], "--minutes must be positive"),
    (["--device", "sim", "--out", str(ROOT / "bench" / "results")], "no figures for bench/results"),
    (["--device", "cpu"], "invalid choice"),
])
def test_refused(bench, words, text, capsys):
    with pytest.raises(SystemExit) as ended:
        bench.arguments(words)
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


def test_sections_and_limits(bench):
    assert bench.arguments(["--only", "host,copy"]).sections == ["copy", "host"]
    assert "gpt2" not in bench.arguments(["--skip", "gpt2"]).sections
    assert bench.arguments([]).minutes == 60 and bench.arguments(["--quick"]).minutes == 5
    assert bench.arguments(["--quick", "--minutes", "9"]).minutes == 9
    assert bench.arguments([]).out == ROOT / "bench" / "results"
    assert ROOT not in bench.arguments(["--device", "sim"]).out.parents


def test_without_a_gpu(bench, tmp_path, capsys):
    if devices.probe().available:
        pytest.skip("a GPU answers")
    assert bench.main(["--only", "copy", "--out", str(tmp_path)]) == 2
    assert "no GPU to measure" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_noticed_before_the_work(bench, tmp_path):
    (tmp_path / "gpu.json").write_text("[1, 2")
    with pytest.raises(ValueError, match=r"\[bench\].*is no file of results"):
        bench.main(["--device", "sim", "--only", "copy", "--out", str(tmp_path)])


def test_a_section_that_fails_is_reported(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.import_module("gpu_bench.limits"), "run", lambda job: 1 / 0)
    assert bench.main(["--job", "copy", "--device", "sim", "--seconds", "9", "--out", str(tmp_path)]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_what_does_not_fit_is_said(bench, tmp_path, capsys):
    from tinytorch_gpu.backend import simulated

    gc.collect()  # what other tests' garbage holds would be room
    simulated.empty_cache()
    simulated.set_limit(simulated.memory_stats()["held"] + (64 << 10))
    try:
        words = ["--job", "gpt2", "--device", "sim", "--quick", "--seconds", "60", "--out", str(tmp_path)]
        assert bench.main(words) == 0
    finally:
        simulated.set_limit(None)
    assert "out of memory" in capsys.readouterr().out
    found = bench.rows.read(tmp_path / "gpu.json")
    assert {r.get("state") for r in found if r["by"] == "tinytorch_gpu"} == {"out of memory"}
    if importlib.util.find_spec("torch"):
        assert {r.get("state") for r in found if r["by"] == "torch"} == {None}


SECTION = """
import sys, time
name = sys.argv[sys.argv.index("--job") + 1]
if name == "copy":
    sys.exit(1)
if name == "host":
    import os
    os.abort()                                       # as a process whose GPU context is gone
if name == "gpt2":
    print("hangs", flush=True)
    time.sleep(60)
"""


def test_the_next_section_follows_a_failure_a_crash_and_a_hang(bench, tmp_path, monkeypatch, capfd):
    script = tmp_path / "section.py"
    script.write_text(SECTION)
    monkeypatch.setattr(bench, "SCRIPT", script)
    monkeypatch.setattr(bench, "SECTIONS", {"copy": 1, "host": 1, "gpt2": 0.01, "curves": 1})
    monkeypatch.setattr(bench, "GRACE", 0.0)
    start = time.monotonic()
    words = ["--device", "sim", "--only", "copy,host,gpt2,curves", "--minutes", "2", "--out", str(tmp_path)]
    assert bench.main(words) == 1
    assert time.monotonic() - start < 50  # of 120 seconds: the section that hangs has a hundredth, and sleeps for 60
    text = capfd.readouterr().out
    states = dict(line.split(None, 1) for line in text.splitlines()[-6:-1] if line[:1].isalpha())
    assert states["copy"] == "failed"
    assert states["host"].startswith("ended with")
    assert states["gpt2"] == "time limit"
    assert states["curves"] == "ok"


@pytest.mark.skipif(os.name != "posix", reason="ends a group of processes")
def test_rows_survive_a_kill(bench, tmp_path):
    from gpu_bench import acceptance

    command = [sys.executable, str(SCRIPT), "--job", "copy", "--run", "r", "--seconds", "60", "--device", "sim",
               "--out", str(tmp_path)]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 200
    while not (tmp_path / "gpu.json").exists() and time.monotonic() < end:
        time.sleep(0.005)
    process.kill()
    process.wait()
    found = bench.rows.read(tmp_path / "gpu.json")
    assert found and set(bench.rows.COLUMNS) <= set(found[0])
    assert not acceptance.finish(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"],
                                                  start_new_session=True), 0.1)


# parts

def test_quantiles(bench):
    quantiles = bench.rows.quantiles
    assert quantiles([]) == (None, None, None)
    assert quantiles([7.123456]) == (7.123, 7.123, 7.123)
    assert quantiles([float(v) for v in range(101)]) == (20, 50, 80)
    assert quantiles([4.0, 1.0, 3.0, 2.0])[1] == 2.5


def test_what_a_row_says_of_the_machine(bench, monkeypatch):
    """With CuPy's names for it; nvidia-smi's driver where that is found."""
    runtime = pytest.importorskip("cupy", reason="CuPy is not installed").cuda.runtime
    assert callable(runtime.getDeviceProperties) and callable(runtime.driverGetVersion)
    fake = types.SimpleNamespace(__version__="14.2.0", cuda=types.SimpleNamespace(runtime=types.SimpleNamespace(
        getDeviceProperties=lambda number: {"name": b"Some GPU"}, runtimeGetVersion=lambda: 13000,
        driverGetVersion=lambda: 13010)))
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(bench.rows, "_driver", lambda: "")
    found = bench.rows.machine("cuda", "7", "abc")
    assert (found["gpu"], found["cuda"], found["driver"], found["cupy"]) == ("Some GPU", "13.0", "CUDA 13.1", "14.2.0")
    assert set(found) == set(bench.rows.MACHINE)
    monkeypatch.setattr(bench.rows, "_driver", lambda: "580.1")
    assert bench.rows.machine("cuda", "7")["driver"] == "580.1"
    assert bench.rows.machine("sim", "7")["commit"]


def row(bench, path, **changed):
    machine = dict.fromkeys(bench.rows.MACHINE, "") | {"gpu": "Some GPU", "run": "1"}
    machine |= {k: v for k, v in changed.items() if k in machine}
    more = {"section": "copy", "op": "copy", "by": "copy", "dtype": "float32", "shape": "16", "direction": "",
            "values": [2.0], "unit": "GB/s"} | {k: v for k, v in changed.items() if k not in machine}
    return bench.rows.Rows(path, machine).add(**more)


def test_the_share_is_of_the_largest_copy_of_the_newest_run_on_this_gpu(bench, tmp_path):
    from gpu_bench.limits import copy_rate

    path = tmp_path / "gpu.json"
    assert copy_rate(path, {"gpu": "Some GPU"}) is None
    row(bench, path, values=[9.0], shape="64", run="0")
    row(bench, path, values=[3.0], shape="64")
    row(bench, path, values=[1.0], shape="128")
    row(bench, path, values=[5.0], shape="256", by="kernel")
    row(bench, path, values=[7.0], shape="512", gpu="Other")
    assert copy_rate(path, {"gpu": "Some GPU"}) == 1.0
    assert copy_rate(path, {"gpu": "Other"}) == 7.0


def test_the_page_shows_the_newest_figures_of_each_gpu(bench, tmp_path):
    path, page = tmp_path / "gpu.json", tmp_path / "gpu.md"
    for run_name, time_us in (("1", 10.0), ("2", 20.0)):
        row(bench, path, section="kernels", op="relu", by="tinytorch_gpu", direction="forward", values=[time_us],
            unit="us", run=run_name, **{"GB/s": 800.0, "share of copy": 0.9})
    row(bench, path, section="kernels", op="relu", by="torch", direction="forward", values=[30.0], unit="us")
    row(bench, path, section="gpt2", op="GPT-2 124M", by="tinytorch_gpu", dtype="bfloat16", values=[], unit="tokens/s",
        state="out of memory")
    row(bench, path, gpu="Other", values=[1.0, 2.0, 3.0])
    bench.table.write(path, page)
    text = page.read_text()
    assert "| relu | forward | float32 | 16 | 20 | 800 | 0.9 | 30 |  |" in text
    assert "out of memory" in text
    assert text.index("## Some GPU") < text.index("## Other")
    assert "| copy | copy | float32 | 16 | 2 GB/s |" in text


def test_contenders_take_turns(bench):
    from gpu_bench.clock import Contender, clock_for, in_turn

    calls = []
    contenders = {name: Contender(lambda state, n=name: calls.append((n, state)), lambda: 5) for name in "ab"}
    times = in_turn(clock_for("sim"), contenders, 0, warm_up=1)
    assert {n: len(v) for n, v in times.items()} == {"a": 3, "b": 3}
    assert all(0 < t < 1e6 for values in times.values() for t in values)
    timed = calls[4:]  # a warm-up is two runs
    assert [name for name, _ in timed] == ["a", "b", "b", "a", "a", "b"]
    assert {state for _, state in timed} == {5}


def test_time_that_is_over_is_said(bench, tmp_path, capsys):
    from gpu_bench.job import Job

    kept = bench.rows.Rows(tmp_path / "gpu.json", dict.fromkeys(bench.rows.MACHINE, ""))
    job = Job("sim", 0.0, True, kept, tmp_path, "copy")
    assert job.over("the rest of it")
    assert "the rest of it left out" in capsys.readouterr().out
    assert not Job("sim", 60.0, True, kept, tmp_path, "copy").over()


def test_gpt2_has_124_million_parameters(bench):
    import models
    from gpu_bench.gpt2 import SIZES, TINY
    from gpu_bench.training import weights

    with tt.device("cpu"):
        tiny = models.make_gpt2(tt, **TINY)
    values = weights(tiny, np.random.default_rng(0))
    assert (values["norm.weight"] == 1).all() and not values["blocks.0.norm1.bias"].any()
    assert values["tokens.weight"].shape == (TINY["vocabulary"], TINY["width"])

    def count(vocabulary, layers, width, heads, context):
        block = 12 * width * width + 13 * width
        return (vocabulary + context) * width + layers * block + 2 * width

    assert sum(math.prod(p.shape) for p in tiny.parameters()) == count(**TINY)
    assert count(**{**SIZES, "vocabulary": 50257}) == 124_439_808  # OpenAI's
