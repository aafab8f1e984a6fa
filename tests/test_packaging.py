"""What goes into the wheel and the sdist, and that the package runs from the tree without being installed."""
from __future__ import annotations

import email
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import tinytorch_gpu

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(wheel, sdist), built without the network."""
    pytest.importorskip("hatchling", reason="hatchling is not installed: pip install '.[test]'")
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def sources():
    return {p.relative_to(ROOT).as_posix() for p in (ROOT / "tinytorch_gpu").rglob("*")
            if p.is_file() and "__pycache__" not in p.parts and p.suffix != ".pyc"}


def test_wheel_holds_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built[0]) as wheel:
        names = set(wheel.namelist())
    info = f"tinytorch_gpu-{tinytorch_gpu.__version__}.dist-info/"
    kernels = {f"tinytorch_gpu/cuda_sources/{p.name}" for p in (ROOT / "kernels").iterdir()}
    kernels.add("tinytorch_gpu/cuda_sources/kernels.json")  # what the compilers said of them
    assert {n for n in names if not n.startswith(info)} == sources() | kernels
    assert info + "licenses/LICENSE" in names and info + "entry_points.txt" in names


def test_metadata(built):
    with zipfile.ZipFile(built[0]) as wheel:
        folder = f"tinytorch_gpu-{tinytorch_gpu.__version__}.dist-info/"
        metadata = email.message_from_bytes(wheel.read(folder + "METADATA"))
        scripts = wheel.read(folder + "entry_points.txt").decode()
    assert (metadata["Name"], metadata["Version"]) == ("tinytorch-gpu", tinytorch_gpu.__version__)
    assert metadata["Requires-Python"] == ">=3.11" and metadata["License-Expression"] == "MIT"
    needed = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert {line.split(";")[0].split(">")[0].split("<")[0] for line in needed} == {
        "numpy", "ml-dtypes", "scipy", "threadpoolctl", "tqdm", "nvtx"}
    assert {"cuda12", "cuda13", "cuda13-ctk", "data", "oracle", "test", "viz"} <= set(
        metadata.get_all("Provides-Extra"))
    assert not [line for line in metadata.get_all("Requires-Dist") if "torch" in line and "oracle" not in line]
    assert "tinytorch-gpu = tinytorch_gpu.cli:main" in scripts


def test_sdist_holds_the_tests_too(built):
    top = f"tinytorch_gpu-{tinytorch_gpu.__version__}/"
    with tarfile.open(built[1]) as sdist:
        names = {n.removeprefix(top) for n in sdist.getnames()}
    assert sources() <= names
    assert {"pyproject.toml", "README.md", "LICENSE", "tests/conftest.py", "docs/design.md"} <= names
    assert not [n for n in names if n.startswith(("runs/", ".git/")) or "__pycache__" in n]


def test_the_wheel_imports_alone(built, tmp_path):
    with zipfile.ZipFile(built[0]) as wheel:
        wheel.extractall(tmp_path)
    assert ran(tmp_path, tmp_path) == [str(tmp_path / "tinytorch_gpu" / "__init__.py"), tinytorch_gpu.__version__]


def test_the_tree_imports_without_installation(tmp_path):
    assert ran(tmp_path, ROOT) == [str(ROOT / "tinytorch_gpu" / "__init__.py"), tinytorch_gpu.__version__]


def ran(folder, path):
    """Where the package comes from and its version, in a program that runs in `folder` with `path` to import from."""
    code = "import tinytorch_gpu as tt, tinytorch_gpu.cli, tinytorch_gpu.utils.data\n"
    code += "print(tt.__file__, tt.__version__, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env={**os.environ, "PYTHONPATH": str(path)},
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
