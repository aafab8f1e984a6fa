"""The rows as a Markdown page: for each GPU the newest row of every measurement, our figures beside PyTorch's."""
from __future__ import annotations

from pathlib import Path

from .rows import read

OURS, EAGER, COMPILED = "tinytorch_gpu", "torch", "torch.compile"
HEAD = {
    "acceptance": ("Acceptance", ("what", "state", "tests")),
    "copy": ("Copy and matrix products", ("what", "by", "dtype", "size", "figure")),
    "kernels": ("Kernels", ("operator", "direction", "dtype", "shape", "ours, us", "GB/s", "share of the copy",
                            "PyTorch, us", "torch.compile, us")),
    "host": ("Time of the host, us", ("operator", "direction", "ours", "PyTorch")),
    "gpt2": ("GPT-2 124M, tokens/s", ("dtype", "batch", "ours", "PyTorch", "torch.compile", "ours, MiB",
                                      "PyTorch, MiB", "torch.compile, MiB")),
    "curves": ("Loss after 200 steps, mean of 20", ("dtype", "ours", "PyTorch", "largest difference of the curves")),
}


def write(source: Path, target: Path) -> None:
    """Write the page of a file of rows."""
    rows = read(source)
    parts = ["# On a GPU", "", "Made by `python bench/gpu.py` from [gpu.json](gpu.json): medians, in brackets the 20 "
             "and 80% quantiles."]
    for gpu in dict.fromkeys(r["gpu"] for r in rows):
        parts += _page(gpu, [r for r in rows if r["gpu"] == gpu])
    target.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _page(gpu, rows):
    simulated = gpu == "simulated"
    newest: dict = {}
    for r in rows:
        key = tuple(r[k] for k in ("section", "op", "by", "dtype", "shape", "direction"))
        if key not in newest or r["run"] >= newest[key]["run"]:
            newest[key] = r
    rows, last = list(newest.values()), rows[-1]
    about = [f"commit {last['commit']}", f"driver {last['driver']}", f"CUDA {last['cuda']}", f"CuPy {last['cupy']}",
             f"PyTorch {last['torch'] or 'absent'}", f"Python {last['python']}", last["date"]]
    parts = ["", f"## {gpu}", ""]
    parts += ["A simulation on a CPU: it shows that the script runs, and has no figures."] if simulated else [
        ", ".join(about) + "."]
    for section, (title, columns) in HEAD.items():
        mine = [r for r in rows if r["section"] == section]
        if not mine:
            continue
        lines = LINES[section](mine)
        parts += ["", f"### {title}", "", "| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
        parts += ["| " + " | ".join(str(v) for v in line) + " |" for line in lines]
    return parts


def _figure(row, key="p50", spread=False):
    """A figure of a row; its state where it has none ("out of memory"), "ran" on the simulated device."""
    if row is None:
        return ""
    if row.get(key) is None:
        return row.get("state", "ran" if row["gpu"] == "simulated" and key == "p50" else "")
    return f"{row[key]:,.6g} ({row['p20']:,.6g} to {row['p80']:,.6g})" if spread else f"{row[key]:,.6g}"


def _beside(rows, *keys):
    """{values of keys: {by: row}}"""
    found: dict = {}
    for r in rows:
        found.setdefault(tuple(r[k] for k in keys), {})[r["by"]] = r
    return found.items()


def _acceptance(rows):
    for r in rows:
        yield r["op"], r.get("state", ""), ", ".join(f"{n} {s}" for s, n in r.get("counts", {}).items())


def _limits(rows):
    for r in rows:
        figure = _figure(r)
        yield (f"{r['op']} {r['direction']}".strip(), r["by"], r["dtype"], r["shape"],
               figure if r["p50"] is None else f"{figure} {r['unit']}")


def _kernels(rows):
    for (op, direction, dtype, shape), by in _beside(rows, "op", "direction", "dtype", "shape"):
        own = by.get(OURS)
        yield (op, direction, dtype, shape, _figure(own), _figure(own, "GB/s"), _figure(own, "share of copy"),
               _figure(by.get(EAGER)), _figure(by.get(COMPILED)))


def _host(rows):
    for (op, direction), by in _beside(rows, "op", "direction"):
        if op == "launch":
            yield op, "Kernel beside the bare function", _figure(by.get("Kernel")), _figure(by.get("bare function"))
        else:
            yield op, direction, _figure(by.get(OURS)), _figure(by.get(EAGER))


def _gpt2(rows):
    for (_, dtype, shape), by in _beside(rows, "op", "dtype", "shape"):
        three = [by.get(name) for name in (OURS, EAGER, COMPILED)]
        yield (dtype, shape, *(_figure(r, spread=True) for r in three), *(_figure(r, "peak MiB") for r in three))


def _curves(rows):
    for (_, dtype), by in _beside(rows, "op", "dtype"):
        yield (dtype, _figure(by.get(OURS)), _figure(by.get(EAGER)), _figure(by.get(OURS), "largest difference"))


LINES = {"acceptance": _acceptance, "copy": _limits, "kernels": _kernels, "host": _host, "gpt2": _gpt2,
         "curves": _curves}
