"""The yardstick of a machine with a GPU: python bench/gpu.py [--only kernels,gpt2] [--quick] [--minutes 30].

Needs CuPy and NumPy, and PyTorch to compare with; runs from the tree. Sections:

    acceptance  the tests on the GPU, CuPy beside the simulation, compute-sanitizer where it is found
    copy        bandwidth of a copy, rate of matrix products by dtype
    kernels     every kernel forward and backward: GB/s, share of the copy, beside PyTorch eager and torch.compile
    host        microseconds of the host for an operator and for a launch
    gpt2        GPT-2 124M in fp16 and bf16: tokens/s and peak memory, beside PyTorch eager AMP and torch.compile
    curves      losses of 200 steps in fp32, fp16, bf16 beside PyTorch's

Each section runs in a process of its own (the kernels in one for each family), because a bad access spoils the process
that made it. A section that fails is reported and the next begins; the exit status is 1 then. Rows are appended to
gpu.json as they are measured, gpu.md is written after each section. `--device sim` runs all of it in tiny sizes on the
simulated device, to show that the script works; it writes no figures.
"""
from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from gpu_bench import acceptance, rows, table  # noqa: E402
from gpu_bench.kernel_table import GROUPS  # noqa: E402

RESULTS = ROOT / "bench" / "results"
SCRIPT = Path(__file__).resolve()  # started again for each section
SECTIONS = {"acceptance": 25, "copy": 5, "kernels": 28, "host": 4, "gpt2": 30, "curves": 15}  # shares of the time
MINUTES = 60
GRACE = 10.0  # seconds that a section may go beyond its share, to end what it began


def arguments(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="sections to run, with commas")
    parser.add_argument("--skip", help="sections to leave out, with commas")
    parser.add_argument("--quick", action="store_true", help="fewer sizes, no torch.compile, within 5 minutes")
    parser.add_argument("--minutes", type=float, help=f"limit of the whole run ({MINUTES}, with --quick 5)")
    parser.add_argument("--device", choices=("cuda", "sim"), default="cuda")
    parser.add_argument("--out", type=Path, help="folder of gpu.json and gpu.md (bench/results)")
    parser.add_argument("--commit", default="", help="the commit's name, where the tree has no .git")
    parser.add_argument("--job", help=argparse.SUPPRESS)  # the run starts itself with these, for each section
    parser.add_argument("--run", default=time.strftime("%Y%m%dT%H%M%S"), help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    named = {name for text in (args.only, args.skip) if text for name in text.split(",")}
    if unknown := sorted(named - set(SECTIONS)):
        parser.error(f"unknown section {', '.join(unknown)}: choose from {', '.join(SECTIONS)}")
    only, skip = (set(text.split(",")) if text else set() for text in (args.only, args.skip))
    args.sections = [s for s in SECTIONS if s not in skip and (not only or s in only)]
    if not args.sections:
        parser.error("no section is left")
    if args.minutes is None:
        args.minutes = 5 if args.quick else MINUTES
    if args.minutes <= 0:
        parser.error(f"--minutes must be positive, got {args.minutes}")
    if args.device == "sim":
        if args.out is None:
            args.out = Path(tempfile.mkdtemp(prefix="bench-gpu-sim-"))
        elif args.out.resolve() == RESULTS:
            parser.error("--device sim has no figures for bench/results: give another --out")
    args.out = (args.out or RESULTS).resolve()
    return args


def main(words=None) -> int:
    args = arguments(words)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.job:
        return one(args)
    if args.device == "cuda":
        from tinytorch_gpu.backend.device import probe

        found = probe()  # in this process nothing else is done on the GPU
        if not found.available:
            print(f"no GPU to measure: {found.reason}; --device sim shows that the script runs", file=sys.stderr)
            return 2
        print(found.reason, flush=True)
    rows.read(args.out / "gpu.json")  # a damaged file is noticed before the work
    return every(args)


def every(args) -> int:
    """All sections, one process after another, within the limit."""
    jobs = [(s, g) for s in args.sections for g in (GROUPS if s == "kernels" else (None,))]
    shares = [SECTIONS[s] / (len(GROUPS) if g else 1) for s, g in jobs]
    end = time.monotonic() + args.minutes * 60 - 3
    states = {}
    for i, (section, group) in enumerate(jobs):
        name = f"{section}/{group}" if group else section
        left = end - time.monotonic()
        if left < 5:
            states[name] = "no time left"
            continue
        seconds = left * shares[i] / sum(shares[i:])
        start = time.monotonic()
        print(f"\n== {name} ({seconds:.0f} s)", flush=True)
        command = [sys.executable, str(SCRIPT), "--job", name, "--run", args.run, "--device",
                   args.device, "--out", str(args.out), "--seconds", f"{seconds:.1f}", "--commit", args.commit,
                   *(["--quick"] if args.quick else [])]
        process = subprocess.Popen(command, cwd=ROOT, env=acceptance.environment(),
                                   start_new_session=os.name == "posix")
        try:
            # what began within its share may end: a fifth more, and never beyond the whole limit
            ended = acceptance.finish(process, min(1.2 * seconds + GRACE, end - time.monotonic()))
        except BaseException:  # interrupted: the section goes with us
            acceptance.end(process)
            raise
        states[name] = "time limit" if not ended else "ok" if not process.returncode else "failed"
        if ended and process.returncode and process.returncode != 1:
            states[name] = f"ended with {process.returncode}"
        print(f"== {name}: {states[name]} after {time.monotonic() - start:.0f} s", flush=True)
        table.write(args.out / "gpu.json", args.out / "gpu.md")
    return _end(args, states)


def _end(args, states) -> int:
    from gpu_bench.kernels import uncovered

    mine = [r for r in rows.read(args.out / "gpu.json") if r["run"] == args.run]
    print("\n" + "\n".join(f"{name:20} {state}" for name, state in states.items()))
    if {"kernels", "gpt2"} <= set(args.sections) and (missing := uncovered(mine)):
        print(f"kernels that no row names: {', '.join(missing)}")
    print(f"{len(mine)} rows in {args.out / 'gpu.json'}, the tables in {args.out / 'gpu.md'}")
    return 0 if all(state == "ok" for state in states.values()) else 1


def one(args) -> int:
    """One section, in this process."""
    import importlib

    from gpu_bench.job import Job

    section, _, group = args.job.partition("/")
    kept = rows.Rows(args.out / "gpu.json", rows.machine(args.device, args.run, args.commit))
    job = Job(args.device, args.seconds, args.quick, kept, args.out, section)
    module = importlib.import_module(f"gpu_bench.{'limits' if section == 'copy' else section}")
    try:
        module.run(job, *([group] if group else []))
    except Exception:  # reported, and told by the exit status; the next section runs
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception: what was started is ended as well
    sys.exit(main())
