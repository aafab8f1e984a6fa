"""The environment report and the command line."""
from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from tinytorch_gpu import __version__, cli, environment

ROOT = Path(__file__).resolve().parents[1]


def driver(version, status=0):
    """A loader of a library that answers like NVIDIA's driver."""
    def get_version(pointer):
        ctypes.cast(pointer, ctypes.POINTER(ctypes.c_int))[0] = version
        return status

    def load(name):
        assert name in ("libcuda.so.1", "nvcuda.dll")
        return types.SimpleNamespace(cuDriverGetVersion=get_version)

    return load


def no_driver(name):
    raise OSError(f"{name}: cannot open shared object file")


@pytest.fixture
def linux(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")


@pytest.fixture
def no_cupy(monkeypatch):
    monkeypatch.setattr(environment, "has_cupy", lambda: False)


def test_driver_version(linux):
    assert environment.driver_version(driver(13010)) == 13010
    assert environment.driver_version(no_driver) is None
    assert environment.driver_version(driver(13010, status=3)) is None
    assert environment.driver_version(lambda name: types.SimpleNamespace()) is None


def test_no_driver_is_looked_for_on_a_mac(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert environment.driver_version(driver(13000)) is None


@pytest.mark.parametrize("version, expected", [
    (13000, "NVIDIA GPU found, CuPy missing: pip install '.[cuda13]'"),
    (13020, "NVIDIA GPU found, CuPy missing: pip install '.[cuda13]'"),
    (12080, "NVIDIA GPU found, CuPy missing: pip install '.[cuda12]'"),
    (12000, "NVIDIA GPU found, CuPy missing: pip install '.[cuda12]'"),
])  # fmt: skip
def test_hint_names_the_extra_of_the_driver(linux, no_cupy, version, expected):
    assert environment.gpu_hint(driver(version)) == expected
    assert environment.report(driver(version)).splitlines()[0] == expected


def test_hint_for_an_old_driver_and_for_none(linux, no_cupy):
    assert "ends at CUDA 11.4" in environment.gpu_hint(driver(11040))
    assert environment.gpu_hint(no_driver) is None


def test_no_hint_where_cupy_is(linux, monkeypatch):
    monkeypatch.setattr(environment, "has_cupy", lambda: True)
    assert environment.gpu_hint(driver(13000)) is None


def test_report_names_versions_and_the_probe_s_reason(linux):
    import numpy

    from tinytorch_gpu.backend.device import probe

    text = environment.report(no_driver)
    assert __version__ in text and numpy.__version__ in text and probe().reason in text


def test_a_home_that_cannot_be_written_is_the_reason(tmp_path):
    """CuPy makes a folder when it is imported: where it cannot, the CPU works and the report says what to set."""
    pytest.importorskip("cupy")
    (tmp_path / "file").touch()  # below a file no folder can be made, by no user
    done = subprocess.run([sys.executable, "-m", "tinytorch_gpu", "env"], cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | {"CUPY_CACHE_DIR": str(tmp_path / "file" / "kernels")})
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("GPU:")]
    assert "CuPy cannot be imported: NotADirectoryError" in line and "set CUPY_CACHE_DIR" in line


def test_env_with_a_device_that_does_not_exist(monkeypatch):
    from tinytorch_gpu.backend import device

    monkeypatch.setenv("TINYTORCH_DEVICE", "tpu")
    monkeypatch.setattr(device, "_process_default", None)
    monkeypatch.setattr(device._local, "default", None, raising=False)
    assert "TINYTORCH_DEVICE=tpu does not work" in environment.report(no_driver)


# the command


def program(monkeypatch, effect):
    """Put a program in the place of `train gpt`."""
    module = types.ModuleType("tinytorch_gpu.examples.gpt")
    module.main = effect
    monkeypatch.setitem(sys.modules, module.__name__, module)


def fails(error):
    def main(argv):
        raise error

    return main


def test_arguments_go_to_the_program(monkeypatch):
    got = []
    program(monkeypatch, lambda argv: got.append(argv) or 3)
    assert cli.main(["train", "gpt", "--steps", "2", "--help"]) == 3
    assert got == [["--steps", "2", "--help"]]


@pytest.mark.parametrize("error, line", [
    (RuntimeError("[linear] shapes\ndiffer"), "[linear] shapes differ\n"),
    (FileNotFoundError(2, "No such file", "x.txt"), "[tinytorch-gpu] FileNotFoundError: "),
    (ValueError(), "[tinytorch-gpu] ValueError: no message\n"),
])  # fmt: skip
def test_an_expected_error_is_one_line(monkeypatch, capsys, error, line):
    program(monkeypatch, fails(error))
    monkeypatch.delenv("TINYTORCH_TRACEBACK", raising=False)
    assert cli.main(["train", "gpt"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(line) and err.count("\n") == 1


def test_traceback_on_request(monkeypatch, capsys):
    program(monkeypatch, fails(ValueError("x")))
    monkeypatch.setenv("TINYTORCH_TRACEBACK", "1")
    assert cli.main(["train", "gpt"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_exits_130(monkeypatch, capsys):
    program(monkeypatch, fails(KeyboardInterrupt()))
    assert cli.main(["train", "gpt"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_is_not_hidden(monkeypatch):
    program(monkeypatch, fails(AssertionError("bug")))
    with pytest.raises(AssertionError):
        cli.main(["train", "gpt"])


@pytest.mark.parametrize("arguments", [["bogus"], ["train"], ["train", "bogus"], ["env", "--bogus"]])
def test_wrong_usage_exits_2(arguments, capsys):
    with pytest.raises(SystemExit) as e:
        cli.main(arguments)
    assert e.value.code == 2 and "usage: tinytorch-gpu" in capsys.readouterr().err


def test_help_and_version(capsys):
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    assert "env" in text and "train" in text
    for flag, shown in (("--version", __version__), ("--help", "usage: tinytorch-gpu")):
        with pytest.raises(SystemExit) as e:
            cli.main([flag])
        assert e.value.code == 0 and shown in capsys.readouterr().out


def test_a_closed_pipe_is_quiet():
    with subprocess.Popen([sys.executable, "-m", "tinytorch_gpu", "env"], cwd=ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()  # before anything is printed: importing takes longer than this
        assert process.wait(timeout=60) == 1
        assert process.stderr.read() == ""
