"""cuBLAS of the simulated device: the products of nvmath.bindings.cublas on the pool's memory.

Column-major matrices by address, leading dimension and batch stride, as cuBLAS documents them; the checks of sizes and
leading dimensions are its own, and so is the table of type combinations. Sums are in the compute type, TF32 rounds the
operands to 10 bits of mantissa.
"""
from __future__ import annotations

import ctypes
import itertools

import numpy as np

from . import delay
from .table import BFLOAT16

name = "simulated"
_TYPES = {2: np.dtype(np.float16), 14: BFLOAT16, 0: np.dtype(np.float32), 1: np.dtype(np.float64),
          4: np.dtype(np.complex64), 5: np.dtype(np.complex128)}
# (compute type, type of A and B): the types that C may have, and the type of alpha and beta
_COMBINATIONS = {
    (68, 2): ((2, 0), np.float32), (68, 14): ((14, 0), np.float32), (68, 0): ((0,), np.float32),
    (77, 0): ((0,), np.float32), (68, 4): ((4,), np.complex64), (77, 4): ((4,), np.complex64),
    (70, 1): ((1,), np.float64), (70, 5): ((5,), np.complex128),
}
_numbers = itertools.count(1)
_handles: dict[int, dict] = {}


class cuBLASError(Exception):
    """As nvmath.bindings.cublas.cuBLASError: a status that is not success."""


def create() -> int:
    handle = next(_numbers)
    _handles[handle] = {"stream": 0, "math": 0}
    return handle


def set_math_mode(handle, mode) -> None:
    _state(handle)["math"] = mode


def set_stream(handle, stream_id) -> None:
    _state(handle)["stream"] = stream_id


def set_workspace(handle, workspace, workspace_size_in_bytes) -> None:
    if workspace % 256:
        raise cuBLASError("INVALID_VALUE (7): a workspace starts at a multiple of 256 bytes")
    _state(handle)["workspace"] = (workspace, workspace_size_in_bytes)


def gemm_ex(handle, transa, transb, m, n, k, alpha, a, atype, lda, b, btype, ldb, beta, c, ctype, ldc, compute_type,
            algo) -> None:
    """C (m, n) = alpha * op(A) op(B) + beta * C, by columns. `alpha`, `beta`: addresses on the host."""
    gemm_strided_batched_ex(handle, transa, transb, m, n, k, alpha, a, atype, lda, 0, b, btype, ldb, 0, beta, c, ctype,
                            ldc, 0, 1, compute_type, algo)


def gemm_strided_batched_ex(handle, transa, transb, m, n, k, alpha, a, atype, lda, stride_a, b, btype, ldb, stride_b,
                            beta, c, ctype, ldc, stride_c, batch_count, compute_type, algo) -> None:
    """C[i] (m, n) = alpha * op(A[i]) op(B[i]) + beta * C[i], by columns; strides between matrices in elements."""
    stream = _state(handle)["stream"]
    if min(m, n, k, batch_count) < 0 or transa not in (0, 1) or transb not in (0, 1):
        raise cuBLASError(f"INVALID_VALUE (7): m {m}, n {n}, k {k}, batch {batch_count}, op {transa}, {transb}")
    rows_a, rows_b = k if transa else m, n if transb else k
    if lda < max(1, rows_a) or ldb < max(1, rows_b) or ldc < max(1, m):
        raise cuBLASError(f"INVALID_VALUE (7): leading dimensions {lda}, {ldb}, {ldc} for {rows_a}, {rows_b}, {m} rows")
    if batch_count > 1 and abs(stride_c) < ldc * (n - 1) + m:
        raise cuBLASError(f"INVALID_VALUE (7): the matrices of C overlap with a stride of {stride_c}")
    allowed, scale = _COMBINATIONS.get((compute_type, atype), ((), None))
    if btype != atype or ctype not in allowed:
        raise cuBLASError(f"NOT_SUPPORTED (15): A {atype}, B {btype}, C {ctype} with compute type {compute_type}")
    if not (m and n and batch_count):
        return
    alpha, beta = (np.frombuffer(_bytes(p, np.dtype(scale).itemsize), scale)[0] for p in (alpha, beta))
    delay.enqueue(_product, (a, atype, m, k, transa, lda, stride_a, batch_count, compute_type),
                  (b, btype, k, n, transb, ldb, stride_b, batch_count, compute_type),
                  (c, ctype, m, n, ldc, stride_c, batch_count), alpha, beta, stream=stream)


def _product(a, b, c, alpha, beta):
    x, y, out = _operand(*a), _operand(*b), _matrices(*c)
    x, y, out = y.swapaxes(1, 2), x.swapaxes(1, 2), out.swapaxes(1, 2)  # by rows, as NumPy writes
    with np.errstate(all="ignore"):
        if alpha == 1 and beta == 0 and x.dtype == out.dtype:
            np.matmul(x, y, out=out)
            return
        value = np.matmul(x, y)
        if alpha != 1:
            value *= alpha
        if beta != 0:  # with 0 the memory is not read: it may hold NaN
            value = value + out.astype(value.dtype) * beta
        np.copyto(out, value, casting="unsafe")


# sizes of 64 bits
gemm_ex_64, gemm_strided_batched_ex_64 = gemm_ex, gemm_strided_batched_ex


def _state(handle) -> dict:
    if handle not in _handles:
        raise cuBLASError(f"NOT_INITIALIZED (1): no handle {handle}")
    return _handles[handle]


def _bytes(address, size):
    return (ctypes.c_char * size).from_address(address)


def _matrices(address, kind, rows, columns, ld, stride, count):
    """Column-major matrices at an address, as a view (count, rows, columns)."""
    dtype = _TYPES[kind]
    if address % dtype.itemsize:
        raise cuBLASError(f"INVALID_VALUE (7): address {address:#x} is not aligned to {dtype}")
    if not (rows and columns):
        return np.empty((count, rows, columns), dtype)
    size = (abs(stride) * (count - 1) + ld * (columns - 1) + rows) * dtype.itemsize
    item = dtype.itemsize
    return np.ndarray((count, rows, columns), dtype, _bytes(address, size), 0, (stride * item, item, ld * item))


def _operand(address, kind, rows, columns, transposed, ld, stride, count, compute):
    """op(A) in the compute type, (count, rows, columns); one matrix for the whole batch stays one."""
    if stride == 0:
        count = 1
    stored = (columns, rows) if transposed else (rows, columns)
    x = _matrices(address, kind, *stored, ld, stride, count)
    if transposed:
        x = x.swapaxes(1, 2)
    if x.dtype.itemsize == 2:
        return x.astype(np.float32)
    return _tf32(x) if compute == 77 else x


def _tf32(x):
    """Rounded to 10 bits of mantissa, halves away from zero; infinities and NaN stay."""
    x = x.copy()
    parts = x.view(np.float32)
    bits = parts.view(np.uint32)
    rounded = ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    parts[...] = np.where(np.isfinite(parts), rounded, parts)
    return x
