"""Matrix products by cuBLAS with handles and workspaces of our own, on the current stream.

CuPy refuses cuBLAS while a stream is being captured into a CUDA graph (cupy#6290), lays operands out again and widens
batches of half types. `nvmath.bindings` is the plain C interface: integers and pointers. Without that package the same
calls go through CuPy's binding of them, which refuses capture. Nothing here copies from or to the host or waits.
"""
from __future__ import annotations

import functools
import logging
import threading
import types

import numpy as np

from . import dtypes
from .gemm_plan import plan

__all__ = ["TYPES", "library", "product", "set_float32_matmul_precision", "get_float32_matmul_precision"]

log = logging.getLogger("tinytorch_gpu")

# cublasMath_t: default, and sums between blocks of a product in the compute type, never in a half type
MATH = 0 | 16
COMPUTE_32F, COMPUTE_32F_FAST_TF32, COMPUTE_64F = 68, 77, 70  # cublasComputeType_t
ALGORITHM = -1  # cublasGemmAlgo_t: the library's choice
# dtype: (cudaDataType_t, dtype of alpha and beta, cublasComputeType_t)
TYPES = {
    dtypes.float16.np: (2, np.float32, COMPUTE_32F), dtypes.bfloat16.np: (14, np.float32, COMPUTE_32F),
    dtypes.float32.np: (0, np.float32, COMPUTE_32F), dtypes.float64.np: (1, np.float64, COMPUTE_64F),
    dtypes.complex64.np: (4, np.complex64, COMPUTE_32F), dtypes.complex128.np: (5, np.complex128, COMPUTE_64F),
}
PRECISIONS = ("highest", "high", "medium")

_precision = "highest"
_local = threading.local()
_lock = threading.Lock()
_libraries: dict = {}


def set_float32_matmul_precision(precision) -> None:
    """How float32 matrix products are computed on a GPU: "highest" in float32 (the default), "high" and "medium" in
    TF32 (10 bits of mantissa, float32 sums), several times faster. For the process. As
    torch.set_float32_matmul_precision. complex64 follows; the CPU computes in float32 always.

    Raises: RuntimeError for another name.
    """
    global _precision
    if precision not in PRECISIONS:
        raise RuntimeError(f"[set_float32_matmul_precision] expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    _precision = precision


def get_float32_matmul_precision() -> str:
    """What set_float32_matmul_precision chose: "highest", "high" or "medium"."""
    return _precision


def library(backend):
    """The functions of cuBLAS for a device's backend, as in nvmath.bindings.cublas. `name` says whose they are."""
    found = _libraries.get(backend.type)
    if found is None:
        with _lock:
            found = _libraries.get(backend.type)
            if found is None:
                found = _libraries[backend.type] = _open(backend)
    return found


def _open(backend):
    if backend.type == "sim":
        from .simulated import cublas

        return cublas
    try:
        from nvmath.bindings import cublas

        cublas.destroy(cublas.create())  # the library itself is looked for at the first call
    except (ImportError, RuntimeError) as e:
        log.warning("matrix products go through CuPy's cuBLAS, which a CUDA graph cannot capture: %s (%s)",
                    e, "pip install 'nvmath-python>=1,<2'")
        return _of_cupy()
    return types.SimpleNamespace(**{name: getattr(cublas, name) for name in NAMES}, name="nvmath.bindings")


@functools.cache
def capability(backend, device) -> int:
    """The compute capability of a GPU: 80 for 8.0."""
    return int(backend.xp.cuda.Device(device).compute_capability)


NAMES = ("create", "set_math_mode", "set_stream", "set_workspace", "gemm_ex", "gemm_ex_64",
         "gemm_strided_batched_ex", "gemm_strided_batched_ex_64")


def _of_cupy():
    """The same functions in CuPy: it sets the stream itself at each call, and has no 64-bit sizes."""
    from cupy_backends.cuda.libs import cublas

    return types.SimpleNamespace(
        name="CuPy", create=cublas.create, set_math_mode=cublas.setMathMode, set_stream=None, set_workspace=None,
        gemm_ex=cublas.gemmEx, gemm_strided_batched_ex=cublas.gemmStridedBatchedEx,
        gemm_ex_64=_too_large, gemm_strided_batched_ex_64=_too_large,
    )


def _too_large(*_):
    raise RuntimeError("[matmul] a dimension of 2^31 elements or more needs nvmath.bindings: "
                       "pip install 'nvmath-python>=1,<2'")


class _Handle:
    """A cuBLAS handle, the stream it is on, and a workspace for each stream it has been on.

    cublasSetStream takes the workspace away, and products on two streams must not share one. A workspace lives as
    long as the process: a captured graph keeps using its address.
    """

    __slots__ = ("library", "value", "stream", "workspaces", "backend", "room")

    def __init__(self, library, backend, device):
        self.library, self.backend = library, backend
        self.value = library.create()
        library.set_math_mode(self.value, MATH)
        self.stream, self.workspaces = None, {}
        self.room = 0
        if backend.type == "cuda" and library.set_workspace is not None:
            # NVIDIA's recommendation: 32 MiB from Hopper on; before it 4, here 8 for split sums
            self.room = (32 if capability(backend, device) >= 90 else 8) << 20

    def go_to(self, stream):
        self.library.set_stream(self.value, stream)
        if self.room:
            space = self.workspaces.get(stream)
            if space is None:  # not from CuPy's pool: neither counted as the user's, nor part of a graph's private pool
                space = self.workspaces[stream] = self.backend.xp.cuda.Memory(self.room)
            self.library.set_workspace(self.value, space.ptr, self.room)
        self.stream = stream


class _Lent:
    """A thread's handle; when the thread ends, the next one that needs a handle gets it."""

    def __init__(self, handle, idle):
        self.handle, self.idle = handle, idle

    def __del__(self):
        self.idle.append(self.handle)


_idle: dict[tuple, list] = {}


def _handle(backend, found):
    device = backend.xp.cuda.runtime.getDevice() if backend.type == "cuda" else 0
    key = (backend.type, device)
    lent = getattr(_local, "handles", None)
    if lent is None:
        lent = _local.handles = {}
    mine = lent.get(key)
    if mine is None:
        with _lock:
            idle = _idle.setdefault(key, [])
            handle = idle.pop() if idle else None
        mine = lent[key] = _Lent(handle or _Handle(found, backend, device), idle)
    handle = mine.handle
    if found.set_stream is not None:
        stream = backend.xp.cuda.get_current_stream().ptr
        if stream != handle.stream:
            handle.go_to(stream)
    return handle


@functools.lru_cache(64)
def _number(value, dtype):
    """A number in host memory, where cuBLAS reads alpha and beta during the call: (address, what keeps it alive)."""
    made = np.array(value, dtype)
    return made.ctypes.data, made


def product(backend, a, b, out, alpha=1, beta=0):
    """out = alpha * a @ b + beta * out on a device. out (..., M, N) is contiguous, of a's dtype or float32 for half
    types, and overlaps neither operand; beta = 0 does not read it. No size is 0."""
    kind, scale, compute = TYPES[a.dtype]
    if compute == COMPUTE_32F and _precision != "highest" and a.itemsize in (4, 8):
        compute = COMPUTE_32F_FAST_TF32
    p = plan(a.shape, a.strides, b.shape, b.strides, a.itemsize)
    if p.copy_a:
        a = a.copy()
    if p.copy_b:
        b = b.copy()
    found = library(backend)
    handle = _handle(backend, found).value
    (pa, _alpha), (pb, _beta) = _number(alpha, scale), _number(beta, scale)
    first, second, to = b.data.ptr, a.data.ptr, out.data.ptr
    item, item_out, kind_out = a.itemsize, out.itemsize, TYPES[out.dtype][0]
    single = p.count == 1
    if single:
        call = found.gemm_ex_64 if p.wide else found.gemm_ex
    else:
        call = found.gemm_strided_batched_ex_64 if p.wide else found.gemm_strided_batched_ex
    for at_first, at_second, at_out in p.offsets:
        x, y, z = first + at_first * item, second + at_second * item, to + at_out * item_out
        if single:
            call(handle, p.trans_first, p.trans_second, p.m, p.n, p.k, pa, x, kind, p.ld_first, y, kind, p.ld_second,
                 pb, z, kind_out, p.m, compute, ALGORITHM)
        else:
            call(handle, p.trans_first, p.trans_second, p.m, p.n, p.k, pa, x, kind, p.ld_first, p.stride_first,
                 y, kind, p.ld_second, p.stride_second, pb, z, kind_out, p.m, p.stride_out, p.count, compute, ALGORITHM)
