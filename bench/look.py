"""What the views cost on the CPU: python bench/look.py [off record memory profile nvtx graph] [--pairs 12] [--save].

`record`, `memory`, `profile`, `nvtx`: microseconds that an open block adds to each of 1,000 tiny operators, forward
and backward, beside what PyTorch's nearest tool adds to the same chain there; medians of interleaved runs. `off`: the
same chain after every block was opened and closed, beside before, in alternating fresh processes. `graph`: seconds for
a graph of 10,000 operators. --save writes bench/results/look.json and look.md.
"""
from __future__ import annotations

import argparse
import gc
import io
import json
import statistics
import subprocess
import sys
import time

import cpu  # sets threads and paths

OPERATORS = 1000  # of one run of the chain: 250 x (multiply, add, tanh, subtract)


def timed(run) -> float:
    gc.collect()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def tools():
    """name -> (block of ours, its name, block of PyTorch, its name)."""
    import torch

    from tinytorch_gpu import look

    def anomaly():
        return torch.autograd.detect_anomaly(check_nan=False)

    def profiler():
        return torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])

    return {
        "record": (look.record, "look.record()", anomaly, "torch.autograd.detect_anomaly(check_nan=False)"),
        "memory": (look.memory, "look.memory()", lambda: torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, with_stack=True),
            "torch.profiler.profile(profile_memory=True, with_stack=True)"),
        "profile": (look.profile, "look.profile()", profiler, "torch.profiler.profile()"),
        "nvtx": (look.nvtx, "look.nvtx()",
                 torch.autograd.profiler.emit_itt, "torch.autograd.profiler.emit_itt()"),
    }


def added(name, count):
    """Microseconds that a block adds to an operator, ours and PyTorch's."""
    import warnings

    import models
    import numpy as np
    import torch

    import tinytorch_gpu as tt

    ours, our_name, theirs, their_name = tools()[name]
    runs = {}
    for key, package, block in (("ours", tt, ours), ("torch", torch, theirs)):
        step = models.chain(package, np.random.default_rng(0))

        def watched(step=step, block=block):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # anomaly mode says that it is slow
                with block():
                    step()

        runs[key], runs[key + "_watched"] = step, watched
    times = {key: [] for key in runs}
    for run in runs.values():
        run()
    for _ in range(count):
        for key, run in runs.items():
            times[key].append(timed(run))
    plain = {key: statistics.median(found) for key, found in times.items()}
    each = {key: (plain[key + "_watched"] - plain[key]) / OPERATORS * 1e6 for key in ("ours", "torch")}
    return {"work": name, "ours": our_name, "torch": their_name, "ours_us": round(each["ours"], 2),
            "torch_us": round(each["torch"], 2), "ratio": round(each["ours"] / each["torch"], 2),
            "plain_us": round(plain["ours"] / OPERATORS * 1e6, 2), "runs": count}


CHAIN = """
import sys, time
sys.path[:0] = {paths!r}
import models, numpy as np
import tinytorch_gpu as tt
step = models.chain(tt, np.random.default_rng(0))
if {opened}:
    from tinytorch_gpu import look
    for block in (look.record, look.memory, look.profile, look.nvtx):
        with block():
            step()
for _ in range(5):
    step()
times = []
for _ in range(60):
    start = time.process_time()  # one thread: what the machine does beside it does not count
    step()
    times.append(time.process_time() - start)
print(min(times))
"""


def off(count):
    """The chain in processes where every block was opened and closed, beside processes that never imported look."""
    found = {False: [], True: []}
    for _ in range(count):
        for opened in found:
            code = CHAIN.format(paths=sys.path[:2], opened=opened)
            out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            found[opened].append(float(out.stdout))
    never, after = (statistics.median(found[key]) * 1e3 for key in (False, True))
    return {"work": "off", "never_ms": round(never, 3), "after_ms": round(after, 3), "ratio": round(after / never, 3),
            "runs": count}


def graph(count, operators=10_000):
    """Seconds to read, fold, print and draw a graph of 10,000 operators in modules of four, recorded."""
    import tinytorch_gpu as tt
    from tinytorch_gpu import look, nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(tt.ones(4))

        def forward(self, x):
            return x + tt.tanh(x * self.weight).sigmoid()

    model = nn.Sequential(*[Block() for _ in range(operators // 4)])
    rows = {}
    for _ in range(count):
        with look.record():
            loss = model(tt.ones(4))
        loss.backward(tt.ones(4))
        times = {"read and fold": timed(lambda loss=loss: rows.__setitem__("view", look.graph(loss, model)))}
        view = rows["view"]
        times["print"] = timed(lambda view=view: view.print(file=io.StringIO(), width=120))
        times["page"] = timed(view.to_html)
        times["svg"] = timed(view.to_svg)
        for key, value in times.items():
            rows.setdefault(key, []).append(value)
    assert (found := len(rows["view"].data["nodes"])) >= operators, found
    return {"work": "graph", "operators": operators, "runs": count, "limit_s": 2.0,
            **{key: round(statistics.median(value), 3) for key, value in rows.items() if key != "view"}}


WORKS = ("off", "record", "memory", "profile", "nvtx", "graph")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", nargs="*", default=[], help=f"{' '.join(WORKS)}; all if none is named")
    parser.add_argument("--pairs", type=int, default=12, help="interleaved runs of each work (12)")
    parser.add_argument("--save", action="store_true", help="write bench/results/look.json and look.md")
    args = parser.parse_args()
    if unknown := set(args.work) - set(WORKS):
        parser.error(f"unknown work {sorted(unknown)}: choose from {' '.join(WORKS)}")
    rows = []
    for work in args.work or WORKS:
        if work in ("off", "graph"):
            row = {"off": off, "graph": graph}[work](max(3, args.pairs // 3))
        else:
            row = added(work, args.pairs)
        rows.append(row)
        print(json.dumps(row), flush=True)
    if args.save:
        save(rows)


def save(rows):
    about = cpu.machine()
    folder = cpu.ROOT / "bench" / "results"
    (folder / "look.json").write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n")
    lines = [
        "# What the views cost on the CPU", "",
        f"{about['cpu']}, {about['cores']} cores; Python {about['python']}, NumPy {about['numpy']}, PyTorch "
        f"{about['torch']}; {about['date']}, commit {about['commit']}. `python bench/look.py --save`", "",
        "Microseconds that an open block adds to each of 1,000 tiny operators, forward and backward (medians of "
        "interleaved runs):", "",
        "| block | ours, us | PyTorch's nearest tool | PyTorch, us | ratio |", "| --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        if "ours_us" in r:
            lines.append(f"| `{r['ours']}` | {r['ours_us']} | `{r['torch']}` | {r['torch_us']} | {r['ratio']} |")
    for r in rows:
        if r["work"] == "off":
            lines += ["", f"After every block was opened and closed the chain takes {r['after_ms']} ms, in a process "
                      f"that never imported `look` {r['never_ms']} ms: ratio {r['ratio']}."]
        if r["work"] == "graph":
            lines += ["", f"A graph of {r['operators']:,} recorded operators: reading and folding "
                      f"{r['read and fold']} s, the text {r['print']} s, the page {r['page']} s, the SVG {r['svg']} s "
                      f"(folded; at most {r['limit_s']} s)."]
    (folder / "look.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
