"""Time on the CPU beside PyTorch: python bench/cpu.py [chain mlp gpt cnn import memory] [--pairs 30] [--save].

Each work runs in one process with both packages, two threads each, as interleaved pairs after a warm-up; the figure
is the median of the ratios ours / PyTorch's. `memory` uses tracemalloc. --save writes bench/results/cpu.json and
cpu.md.
"""
from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

THREADS = "2"
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, THREADS)
os.environ.setdefault("TINYTORCH_DEVICE", "cpu")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

LIMITS = {"chain": 1.6, "mlp": 0.9, "gpt": 1.5, "cnn": 1.8, "import": 0.25}


def pairs(work, count):
    """[(our seconds, PyTorch's seconds)], alternating who goes first."""
    import models
    import numpy as np
    import torch

    import tinytorch_gpu as tt

    torch.set_num_threads(int(THREADS))
    build = models.WORK[work]
    ours, theirs = build(tt, np.random.default_rng(0)), build(torch, np.random.default_rng(0))
    for step in (ours, theirs) * 3:
        step()
    rows = []
    gc.collect()
    for i in range(count):
        times = {}
        for step in (ours, theirs) if i % 2 == 0 else (theirs, ours):
            start = time.perf_counter()
            step()
            times[step] = time.perf_counter() - start
        rows.append((times[ours], times[theirs]))
    return rows


def import_times(count):
    """[(our import, PyTorch's import)] in fresh processes, seconds; both from compiled bytecode, as installed."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = cache

        def run(name):
            code = f"import time; s = time.perf_counter(); import {name}; print(time.perf_counter() - s)"
            out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True,
                                 text=True, check=True)
            return float(out.stdout)

        run("tinytorch_gpu"), run("torch")
        return [(run("tinytorch_gpu"), run("torch")) for _ in range(count)]


def summary(work, rows):
    ratios = sorted(a / b for a, b in rows)
    quantile = lambda q: ratios[min(len(ratios) - 1, int(q * len(ratios)))]  # noqa: E731
    return {
        "work": work, "ratio": round(statistics.median(ratios), 3), "ratio_p20": round(quantile(0.2), 3),
        "ratio_p80": round(quantile(0.8), 3), "ours_ms": round(statistics.median(a for a, _ in rows) * 1e3, 3),
        "torch_ms": round(statistics.median(b for _, b in rows) * 1e3, 3), "limit": LIMITS[work], "pairs": len(rows),
    }


def memory():
    """Peak of forward + backward through 200 x (Linear + ReLU), in activations, and a chain of 100,000 operators."""
    import tracemalloc

    import numpy as np

    import tinytorch_gpu as tt

    nn, width, batch, depth = tt.nn, 128, 2048, 200
    layers = [m for _ in range(depth) for m in (nn.Linear(width, width), nn.ReLU())]
    model = nn.Sequential(*layers)
    x = tt.from_numpy(np.random.default_rng(0).standard_normal((batch, width)).astype(np.float32))
    model(x).sum().backward()
    model.zero_grad()
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    model(x).sum().backward()
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    activation = batch * width * 4
    gradients = sum(p.nbytes for p in model.parameters())
    times = {}
    for n in (25_000, 50_000, 100_000):
        h = w = tt.ones(4, requires_grad=True)
        start = time.perf_counter()
        for _ in range(n):
            h = h * 1.0
        h.sum().backward()
        times[n] = round(time.perf_counter() - start, 3)
        assert float(w.grad[0]) == 1.0
    return {
        "work": "memory", "peak_MiB": round(peak / 2**20, 1),
        "limit_MiB": round((203 * activation + gradients) / 2**20, 1), "activation_MiB": activation / 2**20,
        "gradients_MiB": round(gradients / 2**20, 1), "chain_seconds": times,
    }


def machine():
    import numpy as np
    import torch

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next((line.split(":", 1)[1].strip() for line in info.read_text().splitlines()
                      if line.startswith("model name")), model)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "cpu": model, "cores": os.cpu_count(), "threads": int(THREADS), "system": platform.system(),
        "python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__,
        "commit": commit.stdout.strip(), "date": datetime.date.today().isoformat(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", nargs="*", default=[], help="chain mlp gpt cnn import memory; all if none is named")
    parser.add_argument("--pairs", type=int, default=30, help="interleaved pairs of each work (30)")
    parser.add_argument("--save", action="store_true", help="write bench/results/cpu.json and cpu.md")
    args = parser.parse_args()
    works = args.work or ["chain", "mlp", "gpt", "cnn", "import", "memory"]
    unknown = set(works) - {*LIMITS, "memory"}
    if unknown:
        parser.error(f"unknown work {sorted(unknown)}: choose from chain mlp gpt cnn import memory")
    rows = []
    for work in works:
        if work == "memory":
            row = memory()
        elif work == "import":
            row = summary(work, import_times(max(5, args.pairs // 4)))
        else:
            row = summary(work, pairs(work, args.pairs))
        rows.append(row)
        print(json.dumps(row), flush=True)
    if args.save:
        save(rows)


def save(rows):
    about = machine()
    folder = ROOT / "bench" / "results"
    (folder / "cpu.json").write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n")
    lines = [
        "# CPU: a train step beside PyTorch's CPU build", "",
        f"{about['cpu']}, {about['cores']} cores, {about['threads']} threads each; Python {about['python']}, NumPy "
        f"{about['numpy']}, PyTorch {about['torch']}; {about['date']}, commit {about['commit']}. "
        "`python bench/cpu.py --save`", "",
        "| work | ours, ms | PyTorch, ms | ratio (median of pairs) | p20 to p80 | at most |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        if r["work"] != "memory":
            lines.append(f"| {r['work']} | {r['ours_ms']} | {r['torch_ms']} | {r['ratio']} | {r['ratio_p20']} to "
                         f"{r['ratio_p80']} | {r['limit']} |")
    for r in rows:
        if r["work"] == "memory":
            chain = ", ".join(f"{int(n):,}: {s} s" for n, s in r["chain_seconds"].items())
            lines += ["", "Memory, 200 x (Linear + ReLU), forward + backward: "
                      f"peak {r['peak_MiB']} MiB by tracemalloc, "
                      f"at most {r['limit_MiB']} (203 activations of {r['activation_MiB']} MiB and the parameters' "
                      f"gradients, {r['gradients_MiB']} MiB). Chains of operators, forward + backward: {chain}."]
    (folder / "cpu.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
