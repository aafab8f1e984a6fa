"""Compile every kernel instantiation of the library for every architecture, without a GPU or a driver.

    python tests/compile_matrix.py --cuda12 FOLDER     compile what changed, compare, write bench/results/kernels.json
    python tests/compile_matrix.py --check             write nothing: fail when the file is not up to date
    python tests/compile_matrix.py --all               compile everything again

NVRTC comes from wheels. CUDA 13, for sm_75 and newer, from those that are installed:
    pip install 'cuda-toolkit[nvrtc,cudart,crt,cccl]==13.0.*'
CUDA 12, for sm_70, from a folder of its own, given by --cuda12 or TINYTORCH_CUDA12:
    pip install --target FOLDER 'cuda-toolkit[nvrtc,cudart,cccl]==12.9.*'

The figures of a file are kept by the hash of its source with the headers inlined, so that only changed files compile.
A spill that the file did not have before fails with the kernel named; so does an unknown hash under --check. What an
architecture lacks stands in tinytorch_gpu/backend/architecture.py: such an instantiation has no figures there.
"""
from __future__ import annotations

import argparse
import concurrent.futures
import functools
import multiprocessing
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tinytorch_gpu.backend import architecture, kernel_source  # noqa: E402
from tinytorch_gpu.backend.architecture import TOOLKITS  # noqa: E402
from tinytorch_gpu.kernel_commands import figures as recorded_figures  # noqa: E402
from tinytorch_gpu.kernel_commands.figures import stale, state  # noqa: E402
from tinytorch_gpu.kernel_commands.library import instantiations  # noqa: E402
from tinytorch_gpu.kernel_commands.nvrtc import CompileFailed, Nvrtc, NvrtcMissing  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "kernels.json"
PROCESSES = 2


def gone(recorded, sources):
    """Files and instantiations that have figures and are no longer in the library."""
    for file, known in recorded.items():
        yield from (f"{e} of {file}" for e in known["kernels"] if e not in sources.get(file, ()))


@functools.cache
def _nvrtc(folder):
    return Nvrtc(folder)


def compile_one(folder, file, target, needs):
    """(figures of the file's expressions for an architecture, seconds). One NVRTC program for all of them."""
    began = time.perf_counter()
    source = kernel_source.read(file)
    able = [e for e, (features, types) in needs.items()
            if not architecture.lacking(features, types, architecture.number(target))]
    rows = _nvrtc(folder).figures(source.text_for(" ".join(able)), source.label, target, able) if able else {}
    return rows, time.perf_counter() - began


@dataclass
class Outcome:
    """What a run of the matrix found: the files' figures, new spills, toolkits that are not there, failed compiles."""

    files: dict
    compiled: list = field(default_factory=list)  # (file, toolkit)
    spills: list = field(default_factory=list)  # a line each
    missing: list = field(default_factory=list)
    failed: list = field(default_factory=list)


def new_spills(old, file, target, rows):
    """Lines about kernels that spill more bytes than before."""
    for e, row in sorted(rows.items()):
        before = (old.get(file, {}).get("kernels", {}).get(e, {}).get(target) or (0, 0, 0))[1]
        if row[1] > before:
            yield f"{file}: {e} spills {row[1]} bytes on {target}, {before} before"


def run(recorded, sources, folders, again=False, say=print):
    """Compile what is not known. `folders`: {toolkit: folder of its NVRTC, None: the installed one}."""
    work = [(f, t) for f in sources for t in TOOLKITS] if again else stale(recorded, sources)
    out = Outcome({f: {"states": {}, "kernels": {e: {} for e in needs}} for f, needs in sources.items()})
    for file, entry in out.files.items():  # what is known stays
        for toolkit, known in recorded.get(file, {}).get("states", {}).items():
            if (file, toolkit) not in work and toolkit in TOOLKITS:
                entry["states"][toolkit] = known
                for e, rows in entry["kernels"].items():
                    rows.update({a: recorded[file]["kernels"][e][a] for a in TOOLKITS[toolkit]})
    for toolkit in dict.fromkeys(t for _, t in work):
        try:
            if toolkit not in folders:
                raise NvrtcMissing("[nvrtc] its folder was not given")
            found = _nvrtc(folders[toolkit]).version
            if found != toolkit:
                raise NvrtcMissing(f"[nvrtc] {folders[toolkit] or 'what is installed'} is CUDA {found}")
        except NvrtcMissing as e:
            where = ", ".join(TOOLKITS[toolkit])
            out.missing.append(f"no CUDA {toolkit} for {where} (the head of tests/compile_matrix.py says how): {e}")
            work = [w for w in work if w[1] != toolkit]
    tasks = [(file, toolkit, target) for file, toolkit in work for target in TOOLKITS[toolkit]]
    tasks.sort(key=lambda t: -len(sources[t[0]]))  # the long ones first
    pool = _pool() if PROCESSES > 1 and len(tasks) > 1 else _Here()
    with pool:
        futures = [pool.submit(compile_one, folders[toolkit], file, target, sources[file])
                   for file, toolkit, target in tasks]
        for (file, _, target), future in zip(tasks, futures):
            try:
                rows, seconds = future.result()
            except CompileFailed as e:
                out.failed.append(str(e))
                continue
            say(f"{file} {target}: {len(rows)} kernels in {seconds:.1f} s")
            out.spills += new_spills(recorded, file, target, rows)
            for e in sources[file]:
                out.files[file]["kernels"][e][target] = list(rows[e]) if e in rows else None
    for file, toolkit in work:
        if all(target in rows for rows in out.files[file]["kernels"].values() for target in TOOLKITS[toolkit]):
            out.files[file]["states"][toolkit] = state(file, sources[file], toolkit)
            out.compiled.append((file, toolkit))
    return out


class _Here:
    """A pool without processes."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def submit(self, fn, *args):
        made = concurrent.futures.Future()
        try:
            made.set_result(fn(*args))
        except CompileFailed as e:
            made.set_exception(e)
        return made


def _pool():
    # NVRTC holds one lock for a whole compilation: processes, not threads
    return concurrent.futures.ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn"))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="compile unchanged files too")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the recorded figures are old")
    parser.add_argument("--allow-spills", action="store_true", help="record new spills instead of failing")
    parser.add_argument("--cuda12", metavar="FOLDER", default=os.environ.get("TINYTORCH_CUDA12") or None,
                        help="where CUDA 12's wheels are (TINYTORCH_CUDA12)")
    given = parser.parse_args(arguments)
    try:
        recorded = recorded_figures.load(RESULTS)["files"] if RESULTS.is_file() else {}
    except ValueError:
        if not given.all:
            raise
        recorded = {}
    sources = instantiations()
    old = [*dict.fromkeys(f"{file} (CUDA {toolkit})" for file, toolkit in stale(recorded, sources)),
           *gone(recorded, sources)]
    if not old and not given.all:
        print(f"all {sum(map(len, sources.values()))} kernels of {len(sources)} files are known")
        return 0
    folders = {"13.0": None} | ({"12.9": given.cuda12} if given.cuda12 else {})
    began = time.perf_counter()
    out = run(recorded, sources, folders, given.all)
    print(f"{len(out.compiled)} of {len(sources) * len(TOOLKITS)} compiled in {time.perf_counter() - began:.0f} s")
    spills = [] if given.allow_spills else out.spills
    for line in (*out.failed, *out.missing, *spills):
        print(line, file=sys.stderr)
    if given.check:
        for what in old:
            print(f"bench/results/kernels.json does not know {what}: run python tests/compile_matrix.py",
                  file=sys.stderr)
        return 1 if old or spills or out.failed else 0
    # a file with a new spill keeps what was known of it, so that the next run says it again
    spilled = {line.split(":")[0] for line in spills}
    files = {f: entry for f, entry in out.files.items() if f not in spilled}
    files |= {f: recorded[f] for f in spilled & set(recorded)}
    recorded_figures.store(RESULTS, files)
    return 1 if out.failed or out.missing or spills else 0


if __name__ == "__main__":
    sys.exit(main())
