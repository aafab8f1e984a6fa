"""What GPU architectures lack, in one place: for choosing a kernel or its formula, and for the compile matrix.

A kernel that uses one of FEATURES says so, `Kernel(..., needs=("cp.async",))`. Where the device is older than the
feature the operator keeps to its formula, and the matrix does not compile that instantiation for that architecture.
`tests/test_compile_matrix.py` compiles a line of each feature for the architectures on both sides of its limit.

Nothing stands here that every architecture has: float16 and bfloat16 values, their conversions and operators compile
from sm_70 on (bfloat16 is emulated in float32 before sm_80), and so do atomic additions of them.
"""
from __future__ import annotations

from dataclasses import dataclass

from .kernel_source import C_NAMES, C_TYPES

__all__ = ["FEATURES", "TOOLKITS", "Feature", "capability_of", "lacking", "number"]

# CUDA release -> the architectures compiled with it; CUDA 13 begins at sm_75
TOOLKITS = {
    "12.9": ("sm_70",),
    "13.0": ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"),
}


@dataclass(frozen=True)
class Feature:
    """Something that begins with a compute capability; `dtype`: only instantiations for this type use it."""

    least: int
    dtype: str | None = None


FEATURES = {
    "mma.m16n8k8": Feature(75),
    "ldmatrix": Feature(75),
    "mma.m16n8k16": Feature(80),
    "cp.async": Feature(80),
    "__reduce_add_sync": Feature(80),  # and its kind
    "bfloat16 mma": Feature(80, "__nv_bfloat16"),
    "bfloat16 __hfma": Feature(80, "__nv_bfloat16"),  # and __hfma2; a * b + c is there everywhere
}


def number(architecture: str) -> int:
    """The compute capability that an architecture's name stands for: 90 for sm_90 and sm_90a. Raises: ValueError."""
    digits = architecture.removeprefix("sm_").rstrip("af")
    if not architecture.startswith("sm_") or not digits.isdecimal():
        raise ValueError(f"[kernel] {architecture!r} is no architecture: write sm_90 for compute capability 9.0")
    return int(digits)


def lacking(needs, types, capability: int) -> list[str]:
    """Which of `needs` a device of this compute capability (90 for 9.0) lacks, for the types of an instantiation
    (names of C, or dtypes). Raises: ValueError for a feature that is not in FEATURES."""
    if unknown := set(needs) - set(FEATURES):
        raise ValueError(f"[kernel] needs {', '.join(sorted(unknown))}: known are {', '.join(FEATURES)}")
    names = {C_NAMES[C_TYPES[t]] if isinstance(t, str) else C_NAMES[t] for t in types}
    return [name for name in needs
            if capability < FEATURES[name].least and FEATURES[name].dtype in (None, *names)]


_capabilities: dict[tuple, int] = {}


def capability_of(backend) -> int:
    """The compute capability of a backend's current device, 90 for 9.0. The simulated device has every feature."""
    if backend.type == "sim":
        return 10**6
    device = backend.xp.cuda.runtime.getDevice()
    found = _capabilities.get(device)
    if found is None:
        found = _capabilities[device] = int(backend.xp.cuda.Device(device).compute_capability)
    return found
