"""Does it work here at all: the test suite on the device, simulation and CuPy by one set of rules, memory and races."""
from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time

from .rows import ROOT

STATUS = re.compile(r"(?:^|\s)(PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)(?:\s|$)")
SANITIZERS = ("memcheck", "racecheck")
PLACES = ("/usr/local/cuda/bin", "/opt/cuda/bin")


def run(job) -> None:
    if job.sim:
        good = suite(job, "tests", "sim", ["tests/test_gemm_plan.py", "-k", "copy or call"], job.left())
    else:
        good = suite(job, "conformance", "cuda", ["tests/conformance"], min(job.left(), 120))
        good &= suite(job, "kernels", "cuda", ["tests/test_kernels.py"], min(job.left(), 180))
        good &= _sanitizers(job)
        if not job.quick:
            good &= suite(job, "tests", "cuda", ["tests"], job.left(), workers=min(8, (os.cpu_count() or 2) // 2))
    if not good:
        raise RuntimeError(f"[bench] the acceptance failed: see the logs in {job.out}")


def suite(job, name, device, what, seconds, workers=0) -> bool:
    """Run tests and count results from the log, so that a run that is ended early has its counts."""
    command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider", "--device", device, *what]
    if workers > 1 and importlib.util.find_spec("xdist"):
        command += ["-n", str(workers)]
    elif importlib.util.find_spec("xdist"):
        command += ["-n", "0"]
    return _counted(job, name, command, seconds, "pytest")


def _sanitizers(job) -> bool:
    """compute-sanitizer over a few kernels; each launch is many times slower under it."""
    tool = shutil.which("compute-sanitizer") or next(
        (f"{p}/compute-sanitizer" for p in PLACES if os.path.exists(f"{p}/compute-sanitizer")), None)
    if tool is None:
        print("  compute-sanitizer is not here: memcheck and racecheck left out", flush=True)
        job.add("compute-sanitizer", "", "", "", "", [], "", state="not found")
        return True
    good = True
    for check in SANITIZERS:
        command = [tool, "--tool", check, "--error-exitcode", "9", "--target-processes", "all", sys.executable, "-m",
                   "pytest", "-v", "-x", "--tb=short", "-p", "no:cacheprovider", "--device", "cuda",
                   "tests/test_kernels.py", "-k", "equals and float16"]
        if importlib.util.find_spec("xdist"):
            command += ["-n", "0"]
        good &= _counted(job, check, command, min(job.left(), 60 if job.quick else 240), "compute-sanitizer")
    return good


def _counted(job, name, command, seconds, by) -> bool:
    log = job.out / f"{name}.log"
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT,
                                   start_new_session=os.name == "posix", env=environment())
        try:
            ended = finish(process, seconds)
        except BaseException:  # ended from outside: the tests go with us
            end(process)
            raise
    text = log.read_text(encoding="utf-8", errors="replace")
    found = [m.group(1) for line in text.splitlines() if "::" in line and (m := STATUS.search(line))]
    counts = {s.lower(): found.count(s) for s in dict.fromkeys(found)}
    state = "time limit" if not ended else "passed" if process.returncode == 0 else "failed"
    job.add(name, by, "", "", "", [time.perf_counter() - start], "s", state=state, counts=counts,
            failed=[line.split(" - ")[0].split()[-1] for line in text.splitlines() if line.startswith("FAILED ")][:50])
    print(f"  {name}: {state}, {', '.join(f'{n} {s}' for s, n in counts.items()) or 'no tests'}", flush=True)
    if state == "failed":
        print("\n".join(text.splitlines()[-25:]), flush=True)
    return state == "passed" or (not ended and not counts.get("failed"))


def environment() -> dict:
    """The package comes from the tree, also in a process that pytest starts."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            "PYTHONUNBUFFERED": "1"}


def finish(process, seconds) -> bool:
    """Wait for a process; at the limit it is ended with all that it started. Whether it ended by itself."""
    try:
        process.wait(max(seconds, 1))
        return True
    except subprocess.TimeoutExpired:
        end(process)
        return False


def end(process) -> None:
    """End a process that was started as the first of its own group, and the group."""
    if os.name == "posix":
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
