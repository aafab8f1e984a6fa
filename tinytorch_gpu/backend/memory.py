"""Host memory in use and its peak, for the CPU device's statistics and the training commands.

Two sources. While `tracemalloc` traces, its figures: NumPy reports its buffers to it, so `current` is the bytes of live
arrays and Python objects, exact and with a peak that can be reset. Otherwise the process as the operating system sees
it: resident bytes, which include the interpreter and the libraries and shrink only when the allocator gives pages back.
"""

from __future__ import annotations

import sys
import tracemalloc


def cpu_memory_stats() -> dict:
    """`{"current", "peak", "source"}` in bytes; `source` is "tracemalloc" or "process"."""
    if tracemalloc.is_tracing():
        current, peak = tracemalloc.get_traced_memory()
        return {"current": current, "peak": peak, "source": "tracemalloc"}
    current, peak = _process_memory()
    return {"current": current, "peak": max(current, peak), "source": "process"}


def reset_cpu_peak() -> bool:
    """Starts a new peak at the current figure; False where the operating system keeps the old one (macOS, Windows)."""
    if tracemalloc.is_tracing():
        tracemalloc.reset_peak()
        return True
    if sys.platform != "linux":
        return False
    try:
        # 5 resets the peak resident size (proc_pid_clear_refs(5)); a container may mount /proc read-only
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return False
    return True


def _process_memory() -> tuple[int, int]:
    if sys.platform == "linux":
        return _linux()
    if sys.platform == "win32":
        return _windows()
    if sys.platform == "darwin":
        return _macos()
    raise NotImplementedError(f"[cpu_memory_stats] no memory figures on {sys.platform}: trace with tracemalloc.start()")


def _linux() -> tuple[int, int]:
    """VmRSS and VmHWM of /proc/self/status, in kB."""
    figures = {}
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name in ("VmRSS", "VmHWM"):
                figures[name] = int(rest.split()[0]) * 1024
    # a sandboxed kernel (gVisor) leaves VmHWM out: the peak is then the one getrusage counts
    if "VmHWM" not in figures:
        import resource

        figures["VmHWM"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return figures["VmRSS"], figures["VmHWM"]


def _macos() -> tuple[int, int]:
    """`ps` for the resident size (kB), getrusage for its peak (bytes on macOS, kB elsewhere)."""
    import os
    import resource
    import subprocess

    shown = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=True)
    return int(shown.stdout) * 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _windows() -> tuple[int, int]:
    """WorkingSetSize and PeakWorkingSetSize of GetProcessMemoryInfo."""
    import ctypes
    from ctypes import wintypes

    class Counters(ctypes.Structure):
        _fields_ = [("cb", wintypes.DWORD), ("PageFaultCount", wintypes.DWORD)] + [
            (name, ctypes.c_size_t)
            for name in (
                "PeakWorkingSetSize", "WorkingSetSize", "QuotaPeakPagedPoolUsage", "QuotaPagedPoolUsage",
                "QuotaPeakNonPagedPoolUsage", "QuotaNonPagedPoolUsage", "PagefileUsage", "PeakPagefileUsage",
            )
        ]

    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    kernel.GetCurrentProcess.restype = wintypes.HANDLE
    ask = kernel.K32GetProcessMemoryInfo
    ask.argtypes = [wintypes.HANDLE, ctypes.POINTER(Counters), wintypes.DWORD]
    ask.restype = wintypes.BOOL
    counters = Counters(cb=ctypes.sizeof(Counters))
    if not ask(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.cb):
        raise ctypes.WinError(ctypes.get_last_error())
    return counters.WorkingSetSize, counters.PeakWorkingSetSize


KEPT = 1 << 28  # bytes


def keep_freed_memory() -> bool:
    """Ask the C library to keep up to 256 MiB of freed blocks for the next arrays; False if it cannot.

    glibc maps arrays above 128 KiB anew each time and returns them when they are freed, and the system clears every
    page again: attention on (16, 4, 128, 32), forward and backward, takes 24 ms that way and 9.7 ms with this. The
    CPU backend calls it once, unless TINYTORCH_KEEP_FREED=0.
    """
    if sys.platform != "linux":
        return False
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl has no mallopt
        return False
    m_trim_threshold, m_mmap_threshold = -1, -3
    return bool(mallopt(m_mmap_threshold, KEPT) and mallopt(m_trim_threshold, KEPT))
