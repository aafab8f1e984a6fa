"""The training commands: what they learn, what they write, and that nothing stops them from continuing."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import gzip
import io
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu.backend import device as devices
from tinytorch_gpu.examples import command, corpus, curve, digits, gpt, run, settings
from tinytorch_gpu.look.terminal import Paper

TINY = (
    "--layers 1 --dim 16 --heads 2 --context 16 --table 64 --batch 2 --warmup 3 --log-every 1 --sample 20 "
    "--validate-every 10 --save-every 5 --dropout 0.2"
).split()  # fmt: skip
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # on Windows any signal ends a process at once
UNIX = pytest.mark.skipif(os.name != "posix", reason="signals and file limits as Unix has them")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test runs in an empty folder with a text of its own: 10 kB of words, the same in every run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINYTORCH_DEVICE", str(devices.default_device()))  # for the processes that tests start
    random = np.random.default_rng(7)
    words = ["def", "return", "tensor", "grad", "for", "in", "range", "(x)", ":\n    ", "\n"]
    Path("text.txt").write_text(" ".join(random.choice(words, 2_000)))
    return tmp_path


def train(*args, program=gpt) -> int:
    return program.main([*TINY, "--data", "text.txt", *args] if program is gpt else list(args))


# Where the process itself sends the signal, it comes at a moment of its own steps, however late others are served.
SIGNAL = """
import os, threading, time

def end(table, rows, wait, number):
    while not os.path.exists(table) or open(table).read().count("\\n") <= rows:
        time.sleep(0.002)
    time.sleep(wait)
    os.kill(os.getpid(), number)

threading.Thread(target=end, args={args}, daemon=True).start()
"""


def start(*args, program="gpt", ends=None, **more):
    """The same as a process of its own; `ends` is (file, rows, seconds, signal): the signal comes that long after this
    metrics.csv has so many rows."""
    code = f"import sys; from tinytorch_gpu.examples import {program}; sys.exit({program}.main(sys.argv[1:]))"
    if ends:
        code = SIGNAL.format(args=ends) + code
    line = [sys.executable, "-c", code, *(TINY + ["--data", "text.txt"] if program == "gpt" else []), *args]
    here = str(Path(tt.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [os.environ.get("TRAIN_TEST_PATH", here), os.environ.get("PYTHONPATH", "")]))
    return subprocess.Popen(
        line, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
    )


def finish(child) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a process from `start`, when it has ended."""
    out, error = child.communicate()
    assert "Traceback" not in error, error
    return child.returncode, out, error


def wait_for(child, condition) -> None:
    """Returns when `condition()` holds or the process has ended."""
    while not condition() and child.poll() is None:
        time.sleep(0.005)


def logged(folder) -> int:
    return len(rows(folder)) if Path(folder, "metrics.csv").exists() else 0


def rows(folder) -> list[dict]:
    with open(Path(folder, "metrics.csv"), newline="") as file:
        return list(csv.DictReader(file))


def leaves(value, path=""):
    """(path, array or plain value) of everything in a nested state."""
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], f"{path}/{key}")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from leaves(item, f"{path}/{i}")
    else:
        yield path, value


def assert_same_run(first, second):
    """Equal bits in every weight, optimizer value and random state; equal metrics but for speed and memory."""
    a, b = (tt.load(Path(f, "checkpoint.safetensors"), map_location="cpu") for f in (first, second))
    for state in (a, b):
        del state["seconds"], state["settings"]["out"], state["settings"]["resume"]
    a, b = dict(leaves(a)), dict(leaves(b))
    assert a.keys() == b.keys()
    tensors = 0
    for name, x in a.items():
        if isinstance(x, tt.Tensor):
            x, y = x.numpy(), b[name].numpy()
            assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()), name
            tensors += 1
        else:
            assert x == b[name], name
    assert tensors > 20
    same = ("step", "loss", "lr", "grad_norm", "held_out")
    assert [[r[c] for c in same] for r in rows(first)] == [[r[c] for c in same] for r in rows(second)]


# ---- settings ----


@pytest.mark.parametrize("program", [gpt, digits])
def test_help_lists_every_setting_with_its_default(program, capsys):
    with pytest.raises(SystemExit) as stop:
        program.main(["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(program.Settings):
        assert "--" + field.name.replace("_", "-") in text
        if field.default not in (False, ""):
            assert f"(default: {field.default!r}" in text
        if field.metadata["gpu"] is not None:
            assert f"on a GPU {field.metadata['gpu']})" in text


def test_every_setting_arrives():
    for program in (gpt, digits):
        for field in dataclasses.fields(program.Settings):
            flag = "--" + field.name.replace("_", "-")
            if field.default is False:
                assert settings.parse(program.Settings, [flag], "x") == {field.name: True}
            else:
                choices = field.metadata["choices"]
                value = (choices[-1] if choices else "text" if isinstance(field.default, str)
                         else type(field.default)(1))
                given = settings.parse(program.Settings, [flag, str(value)], "x")
                assert given == {field.name: value} and type(given[field.name]) is type(field.default)


def test_defaults_fit_the_device():
    cpu, gpu = (settings.fill(gpt.Settings, {"heads": 2}, on_gpu) for on_gpu in (False, True))
    assert gpu.dim > cpu.dim and gpu.layers > cpu.layers and cpu.heads == gpu.heads == 2


@pytest.mark.parametrize(
    "args",
    [("--steps", "0"), ("--lr", "nan"), ("--lr", "-1"), ("--dropout", "1"), ("--batch", "-3"), ("--seed", "-1"),
     ("--dim", "15"), ("--clip", "inf")],
)  # fmt: skip
def test_bad_settings(args, capsys):
    assert train(*args) == 1
    error = capsys.readouterr().err
    assert error.startswith("[settings] ") and args[0] in error and error.count("\n") == 1
    assert not Path("runs").exists()


def test_unknown_or_malformed_option(capsys):
    for args in (["--no-such", "1"], ["--steps", "many"], ["--steps"]):
        with pytest.raises(SystemExit) as stop:
            gpt.main(args)
        assert stop.value.code == 2
        assert args[0] in capsys.readouterr().err


# ---- text ----


def test_standard_library_holds_out_whole_modules():
    text = corpus.Corpus("")
    assert text.held_names and all(corpus.held_out(name) for name in text.held_names)
    held = text.held.tobytes()
    assert 20_000 < len(held) < len(text.train) / 5
    root = Path(sysconfig.get_paths()["stdlib"])
    for name in text.held_names:
        source = root / f"{name}.py"
        if source.exists():
            assert source.read_bytes() in held and source.read_bytes() not in text.train.tobytes()
    assert corpus.Corpus("").fingerprint == text.fingerprint


def test_python_without_sources(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    assert gpt.main(TINY) == 1
    error = capsys.readouterr().err
    assert error.startswith("[data] ") and "--data PATH" in error and error.count("\n") == 1


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 100, 1000])
@pytest.mark.parametrize("stride", [1, 5, 16])
def test_every_held_out_byte_is_scored_once(size, stride):
    text = object.__new__(corpus.Corpus)
    text.held = np.random.default_rng(size).integers(0, 256, size).astype(np.uint8)
    seen = []
    for inputs, targets, counted in text.held_windows(16, stride, batch=3):
        assert inputs.shape == targets.shape == counted.shape and len(inputs) <= 3
        assert (inputs[:, 1:] == targets[:, :-1]).all()
        first = counted.argmax(1)
        assert ((first >= 16 - stride) | (len(seen) == 0))[counted.any(1)].all()
        seen += targets[counted > 0].tolist()
    assert seen == text.held.tolist()
    some = sum(counted.sum() for _, _, counted in text.held_windows(16, stride, 3, limit=size // 4))
    assert 0 < some <= size // 4 + 16 + stride


def test_batches_depend_on_seed_and_step_alone():
    text = corpus.Corpus("text.txt")
    a, b = text.batch(1, 5, 4, 8), text.batch(1, 5, 4, 8)
    assert (a[0] == b[0]).all() and (a[0][:, 1:] == a[1][:, :-1]).all() and a[0].dtype == np.int64
    assert (a[0] != text.batch(1, 6, 4, 8)[0]).any() and (a[0] != text.batch(2, 5, 4, 8)[0]).any()
    whole = text.train.tobytes()
    assert all(bytes(row.tolist()) in whole for row in a[1])
    text.train = text.train[:9]  # one window of 8 and its target: the first and the last byte are both reached
    assert {tuple(row) for row in text.batch(0, 0, 5, 8)[0].tolist()} == {tuple(text.train[:8].tolist())}


def test_user_folder(tmp_path):
    text = tmp_path / "mine"
    for i in range(60):
        (text / f"part{i % 3}").mkdir(parents=True, exist_ok=True)
        (text / f"part{i % 3}" / f"{i}.txt").write_text(f"file {i} " * 20)
    (text / ".hidden").write_text("secret")
    (text / "image.bin").write_bytes(b"a\0b" * 50)
    c = corpus.Corpus(str(text))
    names = {f"part{i % 3}/{i}.txt" for i in range(60)}
    assert c.held_names == sorted(n for n in names if corpus.held_out(n))
    whole = c.train.tobytes() + c.held.tobytes()
    assert b"secret" not in whole and b"\0" not in whole
    assert len(whole) == sum(len(f"file {i} " * 20) for i in range(60))


def test_missing_empty_and_short_data(capsys, tmp_path):
    Path("empty.txt").touch()
    Path("short.txt").write_text("short")
    Path("nothing").mkdir()
    for name in ("absent.txt", "empty.txt", "short.txt", "nothing"):
        assert gpt.main([*TINY, "--data", name]) == 1
        error = capsys.readouterr().err
        assert error.startswith("[data] ") and name in error and "--data" in error and error.count("\n") == 1
    assert not Path("runs").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that cannot be read even by root")
def test_unreadable_data(capsys):
    assert gpt.main([*TINY, "--data", "/proc/self/mem"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("[data] /proc/self/mem cannot be read") and error.count("\n") == 1


def test_compressors_are_the_ones_named():
    c = corpus.Corpus("text.txt")
    found = c.compressed()
    assert found["gzip -9"] == pytest.approx(8 * len(gzip.compress(c.held.tobytes(), 9)) / len(c.held))
    for tool in ("gzip", "xz"):
        if shutil.which(tool):
            out = subprocess.run([tool, "-9", "-c"], input=c.held.tobytes(), stdout=subprocess.PIPE, check=True).stdout
            # the programs' headers differ by a few bytes
            assert found[f"{tool} -9"] == pytest.approx(8 * len(out) / len(c.held), abs=8 * 32 / len(c.held))


# ---- curves ----


def table(losses, held_out=()):
    """Rows of a run that logs every ten steps."""
    held = dict(held_out)
    return [{"step": 10.0 * k, "loss": loss, "held_out": held.get(10 * k, math.nan)}
            for k, loss in enumerate(losses, 1)]


def test_the_curve_is_the_running_mean_of_a_fortieth_of_the_rows():
    losses = [5 / k for k in range(1, 81)]
    drawn = curve.loss_chart(table(losses), "nats").points
    assert [x for x, _ in drawn[0]] == [10.0 * k for k in range(1, 81)] and len(drawn) == 1
    around = np.convolve(losses, np.ones(3), "same") / np.convolve(np.ones(80), np.ones(3), "same")  # 80 // 40, centred
    np.testing.assert_allclose([y for _, y in drawn[0]], around)
    assert [y for _, y in curve.loss_chart(table(losses[:39]), "nats").points[0]] == losses[:39]


def test_held_out_losses_are_points_at_their_steps():
    chart = curve.loss_chart(table([3.0, 2.0, 1.0], {20: 2.5, 30: 1.5}), "bits", held_out="held out")
    assert chart.points == [[(10.0, 3.0), (20.0, 2.0), (30.0, 1.0)], [(20.0, 2.5), (30.0, 1.5)]]
    assert [s.name for s in chart.series] == ["training", "held out"]
    for rows, name in ((table([3.0, 2.0]), "held out"), (table([3.0, 2.0], {20: 90.0}), None)):
        assert len(curve.loss_chart(rows, "bits", held_out=name).points) == 1  # none was measured; in another unit


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
@pytest.mark.parametrize("width", [20, 80, 200])
def test_the_curve_as_text(encoding, width):
    paper = Paper(io.TextIOWrapper(io.BytesIO(), encoding=encoding), width)
    lines = curve.loss_chart(table([5.0 - k / 20 for k in range(39)]), "nats").lines(paper)
    "\n".join(lines).encode(encoding)
    assert max(map(len, lines)) <= width and " ".join(lines).startswith("loss: nats over")
    drawn = [re.split(r"[|\u2502]", line)[1] for line in lines if re.search(r"[|\u2502]", line)]
    assert len(drawn) == 12 and all(line.strip() for line in drawn)  # a falling line crosses every row
    ends = [len(line.rstrip()) for line in drawn]
    assert ends == sorted(ends) and lines[-1].split()[0] == "10" and lines[-1].split()[-1] == "390"


def test_the_curve_of_little():
    for losses in ([math.nan], [2.0], [2.0, 2.0, 2.0]):
        (title, *rest) = curve.loss_chart(table(losses), "nats").lines(Paper(width=40))
        assert bool(rest) == math.isfinite(losses[0]) and ("nothing to draw" in title) == math.isnan(losses[0])


# ---- a whole run ----


def test_gpt_learns_and_leaves_its_files(capsys):
    assert train("--steps", "60", "--dropout", "0", "--lr", "0.01", "--log-every", "10") == 0
    out, error = capsys.readouterr()
    assert out.startswith("training on ") and "\nheld-out bits per byte: " in out
    assert "gzip -9 " in out and "xz -9 " in out and "a sample after 'def '" in out
    assert "tokens/s" in error and "MiB" in error and "left" in error and "100%" in error
    files = {path.name for path in Path("runs/gpt-1").iterdir()}
    assert files >= {"checkpoint.safetensors", "metrics.csv"}
    with contextlib.suppress(ImportError):
        import matplotlib  # noqa: F401

        assert Path("runs/gpt-1/curve.png").read_bytes().startswith(b"\x89PNG")
    table = rows("runs/gpt-1")
    assert [int(r["step"]) for r in table] == [10, 20, 30, 40, 50, 60]
    assert tuple(table[0]) == run.COLUMNS
    losses = [float(r["loss"]) for r in table]
    assert losses[-1] < losses[0] - 1
    assert all(float(r["grad_norm"]) > 0 and float(r["per_second"]) > 0 and float(r["memory_mib"]) > 0 for r in table)
    assert float(table[-1]["held_out"]) == pytest.approx(losses[-1], abs=1)
    assert float(table[-1]["lr"]) < float(table[0]["lr"])
    bits = float(re.search(r"bits per byte: ([\d.]+)", out)[1])
    assert bits == pytest.approx(float(table[-1]["held_out"]), abs=0.5)

    assert train("--resume", "--steps", "60", "--dropout", "0", "--lr", "0.01", "--log-every", "10") == 0
    again = capsys.readouterr().out
    assert f"held-out bits per byte: {bits:.3f}" in again  # a finished run only reports again
    assert len(rows("runs/gpt-1")) == 6


def test_held_out_bits_are_the_cross_entropy():
    """The command's own figure against the definition, byte by byte in float64."""
    s = settings.fill(gpt.Settings, settings.parse(gpt.Settings, [*TINY, "--dropout", "0"], "x"), False)
    text = corpus.Corpus("text.txt")
    text.held = text.held[:50]
    tt.manual_seed(0)
    model = gpt.GPT(s)
    bits = gpt.held_out_bits(model, text, devices.default_device(), s)
    whole, total = [10, *text.held.tolist()], 0.0
    for i in range(1, 51):
        begin = 0 if i <= 16 else 8 * math.ceil((i - 16) / 8)  # windows of 16 that move on by 8
        begin = min(begin, 50 - 16)
        logits = np.array(model(tt.tensor([whole[begin:i]]))[0, -1].tolist(), dtype=np.float64)
        total += math.log2(np.exp(logits - logits[whole[i]]).sum())
    assert bits == pytest.approx(total / 50, rel=1e-5)  # the model itself computes in float32


def test_a_model_never_sees_the_future():
    s = settings.fill(gpt.Settings, settings.parse(gpt.Settings, [*TINY, "--ngrams", "4"], "x"), False)
    tt.manual_seed(0)
    model = gpt.GPT(s).eval()
    random = np.random.default_rng(0)
    a = random.integers(0, 256, (1, 16))
    b = a.copy()
    b[0, 9:] = random.integers(0, 256, 7)
    with tt.no_grad():
        x, y = (model(tt.tensor(text)).cpu().numpy() for text in (a, b))
    np.testing.assert_allclose(x[:, :9], y[:, :9], rtol=0, atol=1e-5)
    assert (abs(x[:, 9:] - y[:, 9:]) > 1e-3).any()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_sample_of_any_bytes_is_written_to_any_stream(encoding, monkeypatch):
    monkeypatch.setattr(gpt, "write", lambda *a: "def \ufffd(grün) \u2192 x")
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    monkeypatch.setattr(sys, "stdout", stream)
    assert train("--steps", "2") == 0
    stream.flush()
    out = stream.buffer.getvalue().decode(encoding)
    expected = "def \ufffd(grün) \u2192 x".encode(encoding, "backslashreplace").decode(encoding)
    assert out.endswith(f"--- a sample after 'def ' ---\n{expected}\n") and stream.errors == "strict"


def test_runs_are_numbered_and_never_overwritten(capsys):
    assert train("--steps", "5") == 0 and train("--steps", "6") == 0
    assert {p.name for p in Path("runs").iterdir()} == {"gpt-1", "gpt-2"}
    assert train("--steps", "5", "--out", "runs/gpt-1") == 1
    error = capsys.readouterr().err
    assert "runs/gpt-1 holds a run already" in error.replace("\\", "/")
    assert len(rows("runs/gpt-1")) == 5
    assert train("--resume", "--steps", "6") == 0  # the last run
    assert "runs/gpt-2" in capsys.readouterr().out.replace("\\", "/")


def test_two_runs_that_start_at_once():
    children = [start("--steps", "5") for _ in range(2)]
    assert [finish(child)[0] for child in children] == [0, 0]
    assert {p.name for p in Path("runs").iterdir()} == {"gpt-1", "gpt-2"}
    assert logged("runs/gpt-1") == logged("runs/gpt-2") == 5


def test_the_hint_about_a_gpu_is_shown(monkeypatch, capsys):
    if tt.tensor(0.0).device.type == "cuda":
        pytest.skip("the hint is for machines that do not train on their GPU")
    monkeypatch.setattr(command.environment, "gpu_hint", lambda: "NVIDIA GPU found, CuPy missing")
    assert train("--steps", "2") == 0
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert first == "NVIDIA GPU found, CuPy missing" and second.startswith("training on ")


def test_unavailable_device(capsys):
    assert train("--steps", "2", "--device", "abacus") == 1
    error = capsys.readouterr().err
    assert "[device]" in error and "--device cpu" in error and "Traceback" not in error


@pytest.mark.parametrize("program", ["gpt", "digits"])
def test_the_program_is_short_enough_to_read(program):
    source = Path(sys.modules[f"tinytorch_gpu.examples.{program}"].__file__).read_text()
    assert len(source.splitlines()) < 200


# ---- stopping and continuing ----


def test_killed_at_any_moment_and_resumed_bit_for_bit():
    """kill -9 at random moments until a run gets through; then every bit is that of a run left alone."""
    seed = int(time.time())
    print("seed", seed)
    random = np.random.default_rng(seed)
    assert train("--steps", "60", "--out", "alone") == 0
    kills = 0
    for attempt in range(4):
        started = Path("killed/checkpoint.safetensors").exists()
        wanted, wait = logged("killed") + int(random.integers(1, 15)), float(random.uniform(0, 0.05))
        ends = ("killed/metrics.csv", wanted, wait, int(KILL)) if attempt < 3 else None
        child = start("--steps", "60", "--out", "killed", *(["--resume"] if started else []), ends=ends)
        status, _, error = finish(child)
        kills += status != 0
    assert kills >= 1 and status == 0, error
    assert_same_run("alone", "killed")


@UNIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_the_run_continues(number):
    # validations took most of the time and leave no trace in a run; the test of kill -9 has them
    args = ["--steps", "60", "--save-every", "1000", "--validate-every", "1000", "--out"]
    assert train(*args, "alone") == 0
    status, out, error = finish(start(*args, "stopped", ends=("stopped/metrics.csv", 7, 0.0, int(number))))
    assert status == 128 + number and "stopping" in error
    step = int(re.search(r"stopped at step (\d+) of 60, saved; continue with: .* --resume --out stopped", out)[1])
    assert 7 <= step < 60 and int(rows("stopped")[-1]["step"]) == step
    assert train(*args, "stopped", "--resume") == 0
    assert_same_run("alone", "stopped")


def test_a_half_written_row_is_dropped():
    assert train("--steps", "6", "--out", "r") == 0
    good = Path("r/metrics.csv").read_bytes()
    for left in (b"7,1.2", b"7,a,b,c,d,e,f\n", b"5,1,1,1,1,x,1\n", bytes(20), b"\xff\xfe\n", b"7,1,1,1,1,1,1\n"):
        Path("r/metrics.csv").write_bytes(good + left)
        assert train("--resume", "--steps", "6", "--out", "r") == 0
        assert Path("r/metrics.csv").read_bytes() == good, left


def test_a_second_ctrl_c_stops_at_once():
    before = signal.getsignal(signal.SIGINT)
    with command.CtrlC() as ctrl_c:
        signal.raise_signal(signal.SIGINT)
        assert ctrl_c.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [(KeyboardInterrupt(), 130, "stopped"), (MemoryError("8 GiB"), 1, "[train] out of memory (8 GiB): give a smaller")],
)
def test_stopped_while_setting_up(error, status, message, monkeypatch, capsys):
    def stop(*args):
        raise error

    monkeypatch.setattr(gpt, "Corpus", stop)
    assert train("--steps", "5") == status
    said = capsys.readouterr().err
    assert said.startswith(message) and said.count("\n") == 1


def test_resume_refuses_what_would_change_the_weights(capsys):
    assert train("--steps", "6", "--out", "r") == 0
    before = Path("r/checkpoint.safetensors").read_bytes()
    capsys.readouterr()
    for args, word in (
        (["--steps", "9"], "--steps"),
        (["--steps", "6", "--dim", "32"], "--dim"),
        (["--steps", "6", "--seed", "1"], "--seed"),
    ):
        assert train("--resume", "--out", "r", *args) == 1
        error = capsys.readouterr().err
        assert error.startswith("[resume] ") and word in error and error.count("\n") == 1
    Path("text.txt").write_text("another text " * 5000)
    assert train("--resume", "--steps", "6", "--out", "r") == 1
    assert "training data is not" in capsys.readouterr().err
    assert Path("r/checkpoint.safetensors").read_bytes() == before


def test_what_resume_may_change(capsys):
    assert train("--steps", "6", "--out", "r") == 0
    assert gpt.main(["--resume", "--out", "r", "--prompt", "for ", "--sample", "5"]) == 0
    assert "a sample after 'for '" in capsys.readouterr().out


def test_damaged_or_foreign_checkpoints(capsys):
    assert train("--steps", "6", "--out", "r") == 0
    path = Path("r/checkpoint.safetensors")
    good, table = path.read_bytes(), Path("r/metrics.csv").read_bytes()
    tt.save({"weights": tt.tensor([1.0, 2.0])}, "foreign.safetensors")
    damaged = {
        "empty": b"", "cut": good[: len(good) // 2], "cut in the header": good[:40], "text": b"hello" * 100,
        "zeros": bytes(1000), "foreign": Path("foreign.safetensors").read_bytes(),
    }  # fmt: skip
    for name, content in damaged.items():
        path.write_bytes(content)
        capsys.readouterr()
        assert train("--resume", "--steps", "6", "--out", "r") == 1, name
        error = capsys.readouterr().err
        assert error.startswith("[resume] ") and "checkpoint" in error and "Traceback" not in error, name
        assert path.read_bytes() == content and Path("r/metrics.csv").read_bytes() == table, name
    path.write_bytes(good)
    assert train("--resume", "--steps", "6", "--out", "r") == 0
    path.unlink()
    assert train("--resume", "--out", "r") == 1 and train("--resume") == 1
    assert capsys.readouterr().err.count("[resume] ") == 2


@UNIX
def test_disk_full_while_saving(capsys, monkeypatch):
    """A limit on file sizes is what a full disk looks like: the write itself fails, half-way."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    save, saves = run.Run.save, []

    def full_at_the_second(self):
        saves.append(self.step)
        if len(saves) == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (Path("r/checkpoint.safetensors").stat().st_size // 2, hard))
        save(self)

    monkeypatch.setattr(run.Run, "save", full_at_the_second)
    try:
        assert train("--steps", "20", "--out", "r") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("[train] ") and "checkpoint.safetensors cannot be written" in error
    assert "the checkpoint of step 5 is whole" in error
    assert {p.name for p in Path("r").iterdir()} == {"checkpoint.safetensors", "metrics.csv"}  # nothing half-written
    monkeypatch.setattr(run.Run, "save", save)
    assert train("--steps", "20", "--out", "r", "--resume") == 0
    assert train("--steps", "20", "--out", "alone") == 0
    assert_same_run("alone", "r")


def test_a_folder_that_cannot_be_made(capsys):
    Path("file").touch()
    Path("runs").touch()
    for args in (["--out", "file/run"], []):
        assert train("--steps", "5", *args) == 1
        error = capsys.readouterr().err
        assert error.startswith("[train] ") and "--out" in error and "Traceback" not in error


def test_a_diverging_run_keeps_its_last_checkpoint(capsys, monkeypatch):
    loss, calls = gpt.F.cross_entropy, []

    def broken(*args, **kwargs):
        calls.append(1)
        return loss(*args, **kwargs) * (math.nan if len(calls) > 7 else 1.0)

    monkeypatch.setattr(gpt.F, "cross_entropy", broken)
    assert train("--steps", "30", "--out", "r") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "the loss is nan at step 8" in error and "the checkpoint of step 5 is kept" in error
    assert tt.load("r/checkpoint.safetensors")["step"] == 5 and len(rows("r")) == 7


# ---- digits ----


def test_digits_reads_985_of_1000(capsys):
    pytest.importorskip("sklearn")
    simulated = devices.default_device().type == "sim"  # five times as slow, and the same numbers
    assert train(*(["--steps", "80"] if simulated else []), program=digits) == 0
    out = capsys.readouterr().out
    assert float(re.search(r"test accuracy: ([\d.]+)%", out)[1]) >= (90 if simulated else 98.5)
    assert {p.name for p in Path("runs/digits-1").iterdir()} >= {"checkpoint.safetensors", "metrics.csv"}
    assert gpt.main(["--resume", "--out", "runs/digits-1"]) == 1  # another program's checkpoint
    assert "no checkpoint of `train gpt`" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["fp32", "fp16"])  # fp16: the loss scale goes on as well
def test_digits_resume_bit_for_bit(precision):
    pytest.importorskip("sklearn")
    small = ["--steps", "40", "--channels", "4", "--save-every", "8", "--validate-every", "20"]
    small += ["--precision", precision]
    assert train(*small, "--out", "alone", program=digits) == 0
    child = start(*small, "--out", "killed", program="digits")
    wait_for(child, Path("killed/checkpoint.safetensors").exists)
    child.kill()
    finish(child)
    assert train(*small, "--out", "killed", "--resume", program=digits) == 0
    assert_same_run("alone", "killed")


def test_digits_without_scikit_learn(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert digits.main([]) == 1
    error = capsys.readouterr().err
    assert error.startswith("[data] ") and "scikit-learn" in error and error.count("\n") == 1
