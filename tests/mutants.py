"""Mutate every CUDA kernel, and see that its tests notice: at least 95% of the mutants must be killed.

    python tests/mutants.py             run what changed, write bench/results/mutants.json
    python tests/mutants.py --check     the same without writing, within two minutes: for CI
    python tests/mutants.py --all       run everything again
    python tests/mutants.py --list rows.cu:softmax    run nothing: print the mutants of these regions
    python tests/mutants.py --only rows.cu:softmax    run these regions again, print their survivors, write nothing

A region is a function, struct or constant of a file. Its result holds two hashes: `source`, of all code of the kernels
that it is part of, comments aside, and of its mutants; `tests`, of the cases of those kernels in tests/kernel_cases.py.
Where both are what they were, the result stands. Every survivor needs a reason in tests/mutation/survivors.json.
docs/mutants.md says more.
"""
from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # one process is one worker: set before NumPy and the emulator read them
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", TINYTORCH_EMULATOR_THREADS="1")
    os.environ.pop("TINYTORCH_FUSED", None)

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

from mutation.trial import Library, Target, Trial, temporary_cache  # noqa: E402

from tinytorch_gpu.backend import kernel_source  # noqa: E402
from tinytorch_gpu.backend.simulated import emulator  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "mutants.json"
REASONS = HERE / "mutation" / "survivors.json"
LEAST = 0.95
BUDGET, MOST = 110.0, 400  # seconds and mutants of --check
COMMAND = "run python tests/mutants.py and commit bench/results/mutants.json"


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def case_sources(text: str) -> dict[str, str]:
    """{top-level name of a test file: its code with all that it uses there, comments and layout aside}."""
    code, uses = {}, {}
    for node in ast.parse(text).body:
        names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else [
            t.id for t in getattr(node, "targets", ()) if isinstance(t, ast.Name)]
        for name in names:
            code[name] = ast.unparse(node)
            uses[name] = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    found = {}
    for name in code:
        seen, todo = {name}, [name]
        while todo:
            more = uses[todo.pop()] & set(code) - seen - {"CASES"}
            seen |= more
            todo += more
        found[name] = "\n".join(code[n] for n in sorted(seen))
    return found


class Regions:
    """The mutants by region, with both hashes of each."""

    def __init__(self, library: Library, trial: Trial, tests: str):
        self.targets: dict[str, list[Target]] = {}
        for target in trial.targets():
            self.targets.setdefault(f"{target.mutant.file.removeprefix('kernels/')}:{target.mutant.region}",
                                    []).append(target)
        sources = case_sources(tests)
        self.hashes = {name: self._hash(library, found, sources) for name, found in self.targets.items()}

    @staticmethod
    def _hash(library, targets, sources):
        reach = []
        for file in sorted({file for t in targets for file, *_ in t.hosts}):
            closure, source = library.closures[file], library.sources[file]
            names = set().union(*(closure.below[k] for k in closure.kernels(targets[0].mutant.region)))
            reach += [" ".join(t.text for t in source.tokens[r.first:r.last + 1])
                      for r in source.regions if r.name in names]
        cases = sorted({c.__name__ for t in targets for _, _, cases in t.hosts for c in cases})
        return {"source": digest(*reach, *(t.mutant.key for t in targets)),
                "tests": digest(*(sources.get(c, c) for c in cases), sources.get("Bench", ""))}


class Reasons:
    """Why mutants may survive: the entries of survivors.json. In a mutant's name `…` stands for any text."""

    def __init__(self, entries):
        self.rules = [(name, re.compile(".*".join(map(re.escape, name.split("…"))), re.S), entry["reason"])
                      for entry in entries for name in entry["mutants"]]

    def get(self, key: str, default="") -> str:
        """The reason of a mutant; `default` without one."""
        return next((reason for _, rule, reason in self.rules if rule.fullmatch(key)), default)

    def idle(self, keys) -> list[str]:
        """The names that stand for none of these mutants."""
        return [name for name, rule, _ in self.rules if not any(rule.fullmatch(key) for key in keys)]


def reasons() -> Reasons:
    return Reasons(json.loads(REASONS.read_text(encoding="utf-8")))


def row(hashes, targets, known) -> dict:
    """A region's line in the results."""
    survivors = [{"mutant": t.mutant.key, "reason": known.get(t.mutant.key, "")}
                 for t in targets if t.verdict == "survived"]
    how: dict[str, int] = {}
    for t in targets:
        if t.verdict != "survived":
            how[t.verdict] = how.get(t.verdict, 0) + 1
    return {**hashes, "mutants": len(targets), "killed": len(targets) - len(survivors),
            "by": dict(sorted(how.items())), "survivors": survivors}


def read(path=RESULTS) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))["regions"] if path.is_file() else {}


def write(rows: dict, path=RESULTS) -> None:
    mutants, killed = (sum(r[k] for r in rows.values()) for k in ("mutants", "killed"))
    whole = {"mutants": mutants, "killed": killed, "share": round(killed / max(mutants, 1), 4),
             "regions": dict(sorted(rows.items()))}
    part = path.with_suffix(".new")
    part.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)


def verdict(rows: dict, known) -> list[str]:
    """What is wrong with the results; nothing when enough are killed and every survivor has its reason."""
    wrong = []
    mutants, killed = (sum(r[k] for r in rows.values()) for k in ("mutants", "killed"))
    if killed < LEAST * mutants:
        wrong.append(f"{killed} of {mutants} mutants are killed, {killed / mutants:.1%}: less than {LEAST:.0%}. "
                     "Strengthen tests/kernel_cases.py")
    for name, r in sorted(rows.items()):
        wrong += [f"{name}: survived without a reason in tests/mutation/{REASONS.name}: {s['mutant']}"
                  for s in r["survivors"] if not known.get(s["mutant"])]
    return wrong


def stale(regions: Regions, rows: dict) -> list[str]:
    """Regions whose result is missing or of other sources or tests."""
    return [name for name, hashes in regions.hashes.items()
            if name not in rows or any(rows[name][k] != v for k, v in hashes.items())]


class Progress:
    """One line that is written over, on a terminal; one every half minute elsewhere."""

    def __init__(self, total):
        self.total, self.count, self.survivors, self.began, self.said = total, 0, 0, time.monotonic(), 0.0

    def __call__(self, target):
        self.count += 1
        self.survivors += target.verdict == "survived"
        now, terminal = time.monotonic(), sys.stderr.isatty()
        if now - self.said < (0.2 if terminal else 30) and self.count < self.total:
            return
        self.said = now
        left = (now - self.began) / self.count * (self.total - self.count)
        text = f"{self.count} of {self.total} mutants, {self.survivors} survive, {left:.0f} s left"
        print(f"\r{text:70}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)


def judge(trial, regions, names, workers, finished, until=None) -> bool:
    """Judge the mutants of these regions, `finished(name)` for each region when its last mutant is. False: no time."""
    targets = [t for name in names for t in regions.targets[name]]
    left = {name: len(regions.targets[name]) for name in names}
    owner = {id(t): name for name in names for t in regions.targets[name]}

    def done(target):
        progress(target)
        name = owner[id(target)]
        left[name] -= 1
        if not left[name]:
            finished(name)

    print("compiling, and running the cases without a mutant", file=sys.stderr, flush=True)
    trial.baseline({c for t in targets for _, _, cases in t.hosts for c in cases}, workers)
    progress = Progress(len(targets))
    whole = trial.all(targets, workers, done, until)
    print(file=sys.stderr)
    return whole


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when results are missing or too old")
    parser.add_argument("--all", action="store_true", help="run unchanged regions too")
    parser.add_argument("--list", metavar="REGION", help="print the mutants of the regions whose name contains this")
    parser.add_argument("--only", metavar="REGION", help="run the regions whose name contains this; write nothing")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: the cores)")
    return parser.parse_args(arguments)


def main(arguments=None) -> int:
    given = parse(arguments)
    if missing := emulator.unavailable():
        print(f"mutants cannot run here: {missing}", file=sys.stderr)
        return 1
    import kernel_cases
    import test_kernels

    folder = temporary_cache()
    try:
        library = Library({p.name: kernel_source.read(p).text for p in kernel_source.library_files()})
        trial = Trial(library, kernel_cases.CASES, test_kernels.DTYPES.values(), test_kernels.IN_PLACE,
                      kernel_cases.Bench)
        regions = Regions(library, trial, (HERE / "kernel_cases.py").read_text(encoding="utf-8"))
        rows = {name: r for name, r in read().items() if name in regions.targets}
        if given.list:
            for name in regions.targets:
                if given.list in name:
                    print(*(f"{t.mutant.place}  {t.mutant.key}" for t in regions.targets[name]), sep="\n")
            return 0
        chosen = [n for n in regions.targets if given.only in n] if given.only else (
            list(regions.targets) if given.all else stale(regions, rows))
        if given.check:
            missing = [n for n in chosen if n not in rows]
            if missing:
                print(f"bench/results/mutants.json knows nothing of {', '.join(missing)}: {COMMAND}", file=sys.stderr)
                return 1
        return run(given, library, trial, regions, rows, chosen)
    finally:
        folder.cleanup()


def run(given, library, trial, regions, rows, chosen) -> int:
    known = reasons()
    # headers last: what they depend on changes most often, and their survivors take longest
    chosen.sort(key=lambda name: len(regions.targets[name][0].hosts))
    if chosen:
        library.install()
        print(f"{sum(len(regions.targets[n]) for n in chosen)} mutants of {len(chosen)} regions", file=sys.stderr)

    def finished(name):
        rows[name] = row(regions.hashes[name], regions.targets[name], known)
        if given.only:
            print(f"{name}: {rows[name]['killed']} of {rows[name]['mutants']}",
                  *(f"  {s['mutant']}  ({s['reason'] or 'no reason'})" for s in rows[name]["survivors"]), sep="\n")
        elif not given.check:
            write(rows)  # at once: Ctrl-C keeps what is done

    until = time.monotonic() + BUDGET if given.check else None
    many = given.check and sum(len(regions.targets[n]) for n in chosen) > MOST
    try:
        if many or chosen and not judge(trial, regions, chosen, given.jobs, finished, until):
            print(f"{len(chosen)} regions changed ({', '.join(chosen)}), more than can be run again in {BUDGET:.0f} s: "
                  f"{COMMAND}", file=sys.stderr)
            return 1
    except KeyboardInterrupt:
        print("\nstopped; what was done is kept", file=sys.stderr)
        return 130
    if given.only:
        return 0
    for name, r in rows.items():  # reasons may have changed without a run
        rows[name] = {**r, "survivors": [{**s, "reason": known.get(s["mutant"], "")} for s in r["survivors"]]}
    if not given.check:
        write(rows)
    wrong = verdict(rows, known)
    print(*wrong, *(f"note: tests/mutation/{REASONS.name} has a reason that no survivor needs: {name}"
                    for name in known.idle([s["mutant"] for r in rows.values() for s in r["survivors"]])),
          sep="\n", file=sys.stderr)
    mutants, killed = (sum(r[k] for r in rows.values()) for k in ("mutants", "killed"))
    print(f"{killed} of {mutants} mutants are killed ({killed / mutants:.1%}), {mutants - killed} survive")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
