"""Runs mutants against the cases of their kernels, each in a forked process: what it breaks there stays there.

All sources of the library are replaced by instrumented ones, compiled once and run without a mutant first. A mutant
meets its kernels' cases in the fast build in every dtype, the shortest case first, then in the check build as
tests/test_kernels.py runs it. It is killed by the first that fails: a wrong value, a fault, an endless loop, a source
that does not compile.
"""
from __future__ import annotations

import ctypes
import dataclasses
import os
import selectors
import signal
import sys
import tempfile
import time
import traceback
import zlib

import numpy as np

from tinytorch_gpu.backend import kernel, kernel_source
from tinytorch_gpu.backend.device import backend_for, device
from tinytorch_gpu.backend.simulated import emulator
from tinytorch_gpu.backend.simulated.emulator import faults, module

from .instrument import Instrumented, Mutant
from .tokens import Closure

SECONDS = {"fast": 1.5, "check": 6.0}  # of one launch; the longest without a mutant takes a twentieth
LONGEST = (60.0, 1800.0)  # seconds of one mutant that broke what ends endless loops; with a source of its own


class Library:
    """Sources, instrumented: {file: text}. Kernels whose `source` is such a file are compiled from these."""

    def __init__(self, texts: dict[str, str]):
        self.sources = {file: Instrumented(text) for file, text in texts.items()}
        self.closures = {file: Closure(s.regions) for file, s in self.sources.items()}
        self.current = {file: s.text({(r.file, r.name) for r in s.regions}) for file, s in self.sources.items()}
        self.places: dict[str, list] = {file: [] for file in texts}  # of the number of the chosen mutant

    def install(self):
        """Make the loader read and load these sources."""
        read, load = kernel_source.read, module.Module._load

        def instrumented(source):
            found = read(source)
            text = self.current.get(source if isinstance(source, str) else "")
            return found if text is None else dataclasses.replace(found, text=text)

        def loaded(self_, path, facts):
            load(self_, path, facts)
            for file, text in self.current.items():
                if self_.source == text and hasattr(self_._library, "tt_mutant_place"):
                    self_._library.tt_mutant_place.restype = ctypes.POINTER(ctypes.c_int)
                    self.places[file].append(self_._library.tt_mutant_place())

        kernel.read, module.Module._load = instrumented, loaded
        module.Module._refuse_outside = lambda self_: None  # the number's definition is assembly
        module.explain = _brief
        build = emulator.build
        build.FAST = ("-O1", "-g0")
        build.CHECK = tuple(f for f in build.CHECK if f != "-g")
        for k in kernel.LIBRARY:
            k._functions.clear()
            k._launches.clear()
            k._of.clear()

    def choose(self, mutant: Mutant, file: str):
        """From here on this process has the mutant, which stands in `file` or a header of it."""
        if mutant.edits:
            self.current[file] = self.sources[file].alone(mutant)
            for k in kernel.LIBRARY:
                if k.source == file:
                    k._functions.clear()
                    k._launches.clear()
                    k._of.clear()
        else:
            for place in self.places[file]:
                place[0] = mutant.number


def _brief(raw, name, library, words):
    """A fault without its place in the source: finding that takes longer than the case."""
    kind = faults.KINDS[raw.kind]
    return faults.KernelFault(faults.Fault(kind, name, "", 0, (0, 0, 0), (0, 0, 0), kind))


@dataclasses.dataclass
class Target:
    """A mutant in every source that includes it, and the cases that may kill it there."""

    mutant: Mutant
    hosts: list[tuple[str, Mutant, tuple]]  # (file, the mutant in it, cases)
    verdict: str = ""  # "" while unknown, "survived", or what killed it


class Trial:
    """`cases`: {case: names of its kernels}; `in_place`: kernels that run once in the check build, not in orders."""

    def __init__(self, library: Library, cases, dtypes, in_place, bench):
        self.library, self.cases, self.in_place, self.bench = library, cases, set(in_place), bench
        self.dtypes = [np.dtype(d) for d in dtypes]
        self.seconds: dict[str, float] = {}

    def targets(self) -> list[Target]:
        """All mutants; one in a header once, with all sources that use it."""
        found: dict[str, Target] = {}
        for file, source in self.library.sources.items():
            closure = self.library.closures[file]
            for m in source.mutants:
                kernels = set(closure.kernels(m.region))
                if kernels:
                    cases = tuple(c for c, names in self.cases.items() if kernels & set(names))
                    found.setdefault(m.key, Target(m, [])).hosts.append((file, m, cases))
        return list(found.values())

    def runs(self, cases):
        """(case, dtype or None for the check build), those that end soonest first."""
        cases = sorted(cases, key=lambda c: self.seconds.get(c.__name__, 0.0))
        yield from ((c, self.dtypes[0]) for c in cases)
        yield from ((c, d) for c in cases for d in self.dtypes[1:])
        yield from ((c, None) for c in cases)

    def run(self, case, dtype):
        rng = np.random.default_rng(zlib.crc32(case.__name__.encode()))
        bench = self.bench(backend_for(device("sim")), rng)
        os.environ["TINYTORCH_EMULATOR_SECONDS"] = str(SECONDS["check" if dtype is None else "fast"])
        if dtype is not None:
            case(bench, dtype)
        else:
            with kernel.checking(orders=not self.in_place & set(self.cases[case])):
                case(bench, np.dtype(np.float16))

    def baseline(self, cases, workers):
        """Compile what the cases need and run them without a mutant. Raises: RuntimeError when one fails."""
        runs = list(self.runs(cases))
        # other processes first, so that several compile; here what they compiled is found in the cache
        parts = [os.fork() or self._compile(runs[k::workers]) for k in range(workers)] if workers > 1 else []
        for child in parts:
            os.waitpid(child, 0)
        for case, dtype in runs:
            for _ in range(2 if dtype is self.dtypes[0] else 1):  # the first one loads, the second one is timed
                began = time.perf_counter()
                try:
                    self.run(case, dtype)
                except Exception as e:
                    raise RuntimeError(f"case {case.__name__} fails without a mutant: {e}") from e
            if dtype is self.dtypes[0]:
                self.seconds[case.__name__] = time.perf_counter() - began

    def _compile(self, runs):
        try:
            for case, dtype in runs:
                self.run(case, dtype)
        except Exception:  # it is raised again, and told, in the first process
            os._exit(1)
        os._exit(0)

    def judge(self, target: Target) -> str:
        """What killed it; "survived". Changes this process for good."""
        for file, mutant, _ in target.hosts:
            self.library.choose(mutant, file)
        for case, dtype in self.runs(dict.fromkeys(c for _, _, cases in target.hosts for c in cases)):
            build = "check" if dtype is None else "fast"
            try:
                self.run(case, dtype)
            except emulator.CompileError:
                return "compile"
            except faults.KernelFault as e:
                return f"{build}: {e.fault.kind}"
            except (OSError, MemoryError, emulator.EmulatorUnavailable):
                raise  # the machine's fault
            except Exception as e:  # what the case makes of its results, nearly always an AssertionError
                return f"{build}: {'values' if isinstance(e, AssertionError) else type(e).__name__}"
        return "survived"

    def all(self, targets, workers, done, until=None) -> bool:
        """Judge the targets in forked processes, `done(target)` after each. False when `until` (a time) has passed."""
        waiting, running = list(reversed(targets)), {}
        selector = selectors.DefaultSelector()
        try:
            while waiting or running:
                while waiting and len(running) < workers and (until is None or time.monotonic() < until):
                    target = waiting.pop()
                    end, child = self._start(target)
                    running[end] = (target, child, time.monotonic())
                    selector.register(end, selectors.EVENT_READ)
                if not running:
                    return False
                for event, _ in selector.select(timeout=1.0):
                    self._finish(selector, running, event.fd, done)
                for target, child, began in running.values():
                    if time.monotonic() - began > LONGEST[bool(target.mutant.edits)]:
                        os.kill(child, signal.SIGKILL)
            return True
        finally:
            for _, child, _ in running.values():
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            selector.close()

    def _start(self, target):
        reads, writes = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child:
            os.close(writes)
            return reads, child
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.close(reads)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what the C library says about a heap that a mutant has damaged
        try:
            verdict = self.judge(target)
        except BaseException:  # the machine's fault or a mistake of this script: it must be seen
            verdict = "error\n" + traceback.format_exc()
        os.write(writes, verdict.encode()[:60000])
        os._exit(0)

    def _finish(self, selector, running, end, done):
        target, child, began = running.pop(end)
        selector.unregister(end)
        text = b""
        while piece := os.read(end, 65536):
            text += piece
        os.close(end)
        os.waitpid(child, 0)
        target.verdict = text.decode(errors="replace") or (
            "time" if time.monotonic() - began > LONGEST[bool(target.mutant.edits)] else "crash")
        if target.verdict.startswith("error"):
            raise RuntimeError(f"{target.mutant.place} {target.mutant.change}: {target.verdict}")
        done(target)


def temporary_cache():
    """A folder for what is compiled here, gone at the end: mutants have no place in the user's cache."""
    folder = tempfile.TemporaryDirectory(prefix="tinytorch-mutants-")
    os.environ["TINYTORCH_CACHE"] = folder.name
    return folder
