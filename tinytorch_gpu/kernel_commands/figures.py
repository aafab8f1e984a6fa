"""The recorded figures: what the compilers said of every kernel (kernels.json), what GPUs measured (gpu.json).

Both lie in `bench/results/` of a checkout; a wheel has the first one beside its CUDA sources.
"""
from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from ..backend import architecture, kernel_source
from ..backend.architecture import TOOLKITS
from .nvrtc import FLAGS, Figures

__all__ = ["Measured", "kernels_file", "load", "measured", "span", "stale", "state", "store"]

COLUMNS = ["registers", "spills", "shared"]


def _results() -> Path | None:
    """bench/results of a checkout."""
    folder = kernel_source.library_folder()
    return folder.parent / "bench" / "results" if folder.name == "kernels" else None


def kernels_file() -> Path | None:
    """Where the compilers' figures are, None where this installation has none."""
    results = _results()
    path = results / "kernels.json" if results else kernel_source.library_folder() / "kernels.json"
    return path if path.is_file() else None


def load(path: Path) -> dict:
    """{"files": {file: {"states": {CUDA release: hash}, "kernels": {expression: {architecture: Figures or None}}}}}.

    Raises: ValueError for a file that is not one of these.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["columns"] != COLUMNS:
            raise ValueError(f"columns {found['columns']}")
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(f"[kernels] {path} cannot be read ({e}): make it again with python tests/compile_matrix.py "
                         "--all") from None
    return found


def store(path: Path, files: dict) -> None:
    """Write the figures, one instantiation a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"columns": COLUMNS, "flags": list(FLAGS), "files": files}, indent=1, sort_keys=True)
    text = re.sub(r"\[\s+(-?\d+),\s+(-?\d+),\s+(-?\d+)\s+\]", r"[\1, \2, \3]", text)
    text = re.sub(r'\{\s+("sm_[^{}]*?)\s+\}', lambda m: "{" + re.sub(r",\s+\"sm_", ', "sm_', m[1]) + "}", text)
    path.write_text(text + "\n", encoding="utf-8")


def state(file, needs, toolkit) -> str:
    """What a file's figures by one CUDA release depend on. `needs`: {expression: (features, types)}."""
    limits = [str(architecture.FEATURES[name]) for features, _ in needs.values() for name in features]
    text = "\n".join((kernel_source.read(file).text, repr(sorted(needs.items())), *limits, *FLAGS, toolkit,
                      *TOOLKITS[toolkit]))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stale(recorded, sources) -> list[tuple[str, str]]:
    """[(file, CUDA release)] whose figures were not made from these sources."""
    return [(file, toolkit) for file, needs in sources.items() for toolkit in TOOLKITS
            if recorded.get(file, {}).get("states", {}).get(toolkit) != state(file, needs, toolkit)]


@dataclass(frozen=True)
class Measured:
    """One row of bench/results/gpu.json."""

    kernel: str
    dtype: str
    gpu: str
    rate: float  # GB/s


def measured() -> list[Measured]:
    """What the last run on a GPU measured of each kernel, empty where nothing was. Raises: ValueError."""
    results = _results()
    path = results / "gpu.json" if results else None
    if path is None or not path.is_file():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = found["rows"] if isinstance(found, dict) else found
        found = [r for r in rows if r.get("kernel") and r.get("GB/s") is not None]
        last = {r["kernel"]: r.get("run") for r in found}
        return [Measured(r["kernel"], r.get("dtype", ""), r.get("gpu", ""), float(r["GB/s"]))
                for r in found if r.get("run") == last[r["kernel"]]]
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise ValueError(f"[kernels] {path} cannot be read ({e!r}): make it again with python bench/gpu.py") from None


def span(rows: list[Figures], column: int) -> str:
    """The least and the greatest of a column, as "32" or "24-40"; "-" without rows."""
    values = sorted({row[column] for row in rows})
    return "-" if not values else str(values[0]) if len(values) == 1 else f"{values[0]}-{values[-1]}"
