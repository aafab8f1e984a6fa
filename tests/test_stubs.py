"""tensor.pyi and __init__.pyi are what make_stubs.py writes, they parse, and mypy understands programs by them."""

from __future__ import annotations

import ast
import importlib.util
import pathlib
import subprocess
import sys

import pytest
from make_stubs import FOLDER, STUBS

import tinytorch_gpu as tt

ROOT = pathlib.Path(__file__).resolve().parents[1]  # the package may be installed elsewhere


@pytest.mark.parametrize("name", STUBS)
def test_stubs_are_up_to_date(name):
    written = (FOLDER / name).read_text(encoding="utf-8")
    assert written == STUBS[name](), f"{name} is old: PYTHONPATH=. python tests/make_stubs.py"


@pytest.mark.parametrize("name", STUBS)
def test_every_public_name_is_there(name):
    tree = ast.parse((FOLDER / name).read_text(encoding="utf-8"))
    scope = tree
    if name == "tensor.pyi":
        scope = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Tensor")
    defined = {node.name for node in scope.body if isinstance(node, ast.FunctionDef)}
    wanted = (
        {n for n, v in vars(tt.Tensor).items() if not n.startswith("_") and (callable(v) or isinstance(v, property))}
        if name == "tensor.pyi"
        else {n for n, f in tt.ops.PUBLIC.items() if not f._functional and not n.startswith("_")}
    )
    assert wanted <= defined, sorted(wanted - defined)
    assert len(wanted) > 200


def test_the_package_says_that_it_is_typed():
    assert (FOLDER / "py.typed").is_file()


PROGRAM = """
import tinytorch_gpu as tt
from tinytorch_gpu.tensor import Tensor

def loss(x: Tensor, w: Tensor) -> float:
    y = (x @ w + 1).relu_().softmax(-1)
    y += 1
    values, indices = y.sort()
    y.backward()
    w.grad = None
    return (values.sum() - indices.max()).item() + float(y.shape[0]) + tt.tensor([1.0]).mean().item()

reveal_type(tt.zeros(2).add_(1))
reveal_type(tt.float32)
tt.zeros(2).no_such_method()
tt.no_such_function()
"""


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_mypy(tmp_path):
    program = pathlib.Path(tmp_path, "program.py")
    program.write_text(PROGRAM, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--cache-dir",
        str(tmp_path / "cache"),
        "--follow-imports=silent",
        "--config-file=",
    ]  # a user's checks, without what the project leaves out for its own sources
    stubs = subprocess.run(
        # the checkout's: beside an installed package mypy finds itself and refuses
        [*command, *(str(ROOT / FOLDER.name / name) for name in STUBS)], cwd=ROOT, capture_output=True, text=True
    )
    assert stubs.returncode == 0, stubs.stdout + stubs.stderr
    done = subprocess.run([*command, str(program)], cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert 'Revealed type is "tinytorch_gpu.tensor.Tensor"' in lines[0], done.stdout + done.stderr
    assert 'Revealed type is "tinytorch_gpu.backend.dtypes.dtype"' in lines[1]
    assert (
        '"Tensor" has no attribute "no_such_method"' in lines[2]
        and 'Module has no attribute "no_such_function"' in lines[3]
    )
    assert len(lines) == 5 and lines[4].startswith("Found 2 errors")
