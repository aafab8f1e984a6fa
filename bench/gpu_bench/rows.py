"""Rows of results: each is in the file as soon as it is measured, so that a run that is killed keeps what it had."""
from __future__ import annotations

import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MACHINE = ("run", "date", "commit", "gpu", "driver", "cuda", "cupy", "torch", "python")
COLUMNS = (*MACHINE, "section", "op", "by", "dtype", "shape", "direction", "p20", "p50", "p80", "unit", "samples")


class Rows:
    """A file {"rows": [...]}, one row a line; `machine` is written into every row."""

    def __init__(self, path: Path, machine: dict):
        self.path, self.machine = Path(path), machine

    def add(self, section, op, by, dtype, shape, direction, values, unit, **more) -> dict:
        """Append a row with the 20, 50 and 80% quantiles of `values`; `more` are further keys. Returns it."""
        low, middle, high = quantiles(values)
        row = {
            **{k: self.machine[k] for k in MACHINE}, "section": section, "op": op, "by": by, "dtype": dtype,
            "shape": shape, "direction": direction, "p20": low, "p50": middle, "p80": high, "unit": unit,
            **{"samples": len(values), **more},
        }
        write(self.path, [*read(self.path), row])
        return row


def quantiles(values):
    """The 20, 50 and 80% quantiles, rounded to 4 digits; None without values."""
    if not values:
        return None, None, None
    ordered = sorted(values)
    last = len(ordered) - 1
    found = ordered[round(0.2 * last)], statistics.median(ordered), ordered[round(0.8 * last)]
    return tuple(float(f"{v:.4g}") for v in found)


def read(path: Path) -> list[dict]:
    """The rows of a file, none if it does not exist. Raises: ValueError for a file that is not one of these."""
    if not path.exists():
        return []
    try:
        return json.loads(path.read_text(encoding="utf-8"))["rows"]
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(f"[bench] {path} is no file of results ({e!r}): move it away") from None


def write(path: Path, rows: list[dict]) -> None:
    """Write all rows; the file is whole at every moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = '{"rows": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]}\n"
    beside = path.with_suffix(".new")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def machine(device: str, run: str, commit: str = "") -> dict:
    """What every row says of the machine: commit, GPU, driver, versions. On the simulated device the GPU is
    "simulated" and there is no driver."""
    about = {
        "run": run, "date": datetime.date.today().isoformat(), "commit": commit or _commit(), "gpu": "simulated",
        "driver": "", "cuda": "", "cupy": "", "torch": version("torch"), "python": platform.python_version(),
    }
    if device == "cuda":
        import cupy

        runtime = cupy.cuda.runtime
        about["gpu"] = runtime.getDeviceProperties(0)["name"].decode()
        about["cuda"] = _release(runtime.runtimeGetVersion())
        about["driver"] = _driver() or f"CUDA {_release(runtime.driverGetVersion())}"
        about["cupy"] = cupy.__version__
    return about


def _release(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _driver() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    out = subprocess.run([tool, "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True)
    return out.stdout.split("\n")[0].strip() if out.returncode == 0 else ""


def _commit() -> str:
    """The commit of the checkout, with + where files differ from it; "unknown" outside of a repository."""
    def git(*words):
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)

    if shutil.which("git") is None:
        return "unknown"
    found = git("rev-parse", "--short", "HEAD")
    if found.returncode:
        return "unknown"
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "tinytorch_gpu", "kernels", "bench/*.py")
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "")
