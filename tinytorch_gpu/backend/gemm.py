"""The one entry point for matrix products: any rank, transposed operands without copies, half types exact.

Times in comments: 2 cores of an AMD EPYC, NumPy 2.4 with OpenBLAS, best of 60, in a process of its own.

| product (float32, 1 thread)                                      | here    | PyTorch 2.13 |
| (16, 4, 128, 32) @ (16, 4, 32, 128), heads split as views        | 0.76 ms | 1.41 ms      |
| (16, 4, 128, 128) @ (16, 4, 128, 32)                             | 1.07 ms | 0.97 ms      |
| (128, 784) @ (512, 784)^T                                        | 1.00 ms | 1.10 ms      |
| (16, 128, 128) @ (512, 128)^T                                    | 2.87 ms | 3.29 ms      |
"""
from __future__ import annotations

import math

import numpy as np

from . import cublas, dtypes, threads
from .device import backend_of, device_of

__all__ = ["gemm", "matmul", "product_into"]

_THREADED = 1 << 22  # multiplications from which a batch is cut over threads: BLAS does not thread small matrices


def matmul(a, b):
    """Product of arrays of any rank, 1-d included. As torch.matmul.

    (K) @ (K) -> (); (..., M, K) @ (K) -> (..., M); (K) @ (..., K, N) -> (..., N); else as `gemm`.
    Raises: RuntimeError for shapes, dtypes or devices that do not fit, NotImplementedError for bool.
    """
    if a.ndim >= 2 and b.ndim >= 2:
        return gemm(a, b)
    if a.ndim == 0 or b.ndim == 0:
        raise RuntimeError(f"[matmul] both operands must have at least 1 dimension, got {a.ndim}-d and {b.ndim}-d: "
                           "use * to multiply by a number")
    if a.shape[-1] != b.shape[0 if b.ndim == 1 else -2]:
        raise _no_fit(a.shape, b.shape)
    rows = a[None, :] if a.ndim == 1 else a
    columns = b[:, None] if b.ndim == 1 else b
    out = gemm(rows, columns)
    shape = out.shape[:-2] + (() if a.ndim == 1 else out.shape[-2:-1]) + (() if b.ndim == 1 else out.shape[-1:])
    return out.reshape(shape)


def gemm(a, b, trans_a=False, trans_b=False, out_dtype=None, add=None, alpha=1, beta=1):
    """alpha * (..., M, K) @ (..., K, N) + beta * add -> (..., M, N) for ranks >= 2, the leading dimensions broadcast.

    `trans_a`, `trans_b` swap the last two dimensions of an operand first, without a copy. Half types accumulate in
    float32 and round once, or not at all with out_dtype=float32. Integers wrap. `add` is an array of the result's
    dtype that broadcasts to its shape; it joins before the rounding. The result is a new array.
    Raises: RuntimeError for shapes, dtypes or devices that do not fit, NotImplementedError for bool.
    """
    dtype = a.dtype
    if a.__class__ is not b.__class__ and backend_of(a) is not backend_of(b):
        raise RuntimeError(f"[matmul] expected both operands on one device, got {device_of(a)} and {device_of(b)}: "
                           "move one with .to(device)")
    if dtype != b.dtype:
        raise RuntimeError(f"[matmul] expected both operands of one dtype, got {dtypes.of(a).name} and "
                           f"{dtypes.of(b).name}: convert one with .to(dtype)")
    if dtype.kind == "b":
        raise NotImplementedError("[matmul] not implemented for bool: convert to an integer or floating dtype")
    if a.ndim < 2 or b.ndim < 2:
        raise RuntimeError(f"[matmul] expected operands of at least 2 dimensions, got {a.ndim}-d and {b.ndim}-d")
    if trans_a:
        a = a.swapaxes(-1, -2)
    if trans_b:
        b = b.swapaxes(-1, -2)
    shape_a, shape_b = a.shape, b.shape
    if shape_a[-1] != shape_b[-2] or not _broadcast(shape_a, shape_b):
        raise _no_fit(shape_a, shape_b)
    half = dtype in dtypes.HALF
    if out_dtype is not None:
        out_dtype = dtypes.from_any(out_dtype).np
        if out_dtype != dtype and not (half and out_dtype == np.float32):
            raise RuntimeError(f"[matmul] out_dtype {out_dtype} does not go with operands of {dtype}: "
                               "float32 for half types, else the operands' dtype")
    backend = backend_of(a)
    if backend.xp is not np and dtype in cublas.TYPES and _has(backend, dtype):
        return _on_device(backend, a, b, out_dtype or dtype, add, alpha, beta)
    plain = add is None and alpha == 1
    out_dtype = out_dtype or dtype
    product = _folded(backend, a, b, half, out_dtype if plain or not half else np.dtype(np.float32))
    if plain:
        return product
    with dtypes.quiet():
        if alpha != 1:
            product *= alpha
        if add is not None and beta:
            product += add if beta == 1 else add * beta
        return product.astype(out_dtype, copy=False)


def product_into(out, a, b):
    """out = a @ b for ranks >= 2 in one dtype that is no half type; out is contiguous. Returns it."""
    backend = backend_of(out)
    if backend.xp is np or out.dtype not in cublas.TYPES:
        return backend.xp.matmul(a, b, out=out)
    if out.size and a.shape[-1]:
        cublas.product(backend, a, b, out)
    else:
        out.fill(0)
    return out


def _on_device(backend, a, b, out_dtype, add, alpha, beta):
    lead_a, lead_b = a.shape[:-2], b.shape[:-2]
    lead = lead_a if lead_a == lead_b or not lead_b else np.broadcast_shapes(lead_a, lead_b)
    shape = lead + (a.shape[-2], b.shape[-1])
    out = backend.xp.empty(shape, out_dtype)
    if add is None or not beta:
        beta = 0
    else:
        out[...] = add
    if not out.size:
        return out
    if not a.shape[-1]:
        out *= beta
        if not beta:  # and not 0 times what was there
            out.fill(0)
        return out
    cublas.product(backend, a, b, out, alpha, beta)
    return out


def _has(backend, dtype):
    """Whether cuBLAS multiplies this dtype on the device: bfloat16 from compute capability 8.0 on."""
    if dtype != dtypes.bfloat16.np or backend.type != "cuda":
        return True
    return cublas.capability(backend, backend.xp.cuda.runtime.getDevice()) >= 80


def _folded(backend, a, b, half, out_dtype):
    """The product by the array library; one B for all rows of A is one product instead of one per matrix."""
    shape_a, shape_b = a.shape, b.shape
    multiply = _half_product if half else _product
    if len(shape_a) > 2 and len(shape_b) == 2 and (backend.xp is not np or _rows_are_one_axis(a)):
        # (16, 128, 128) @ (128, 512) on 2 threads 1.4 ms, 2.2 ms without; CuPy copies operands of more than 2
        # dimensions that are not contiguous in any case
        rows = a.reshape(math.prod(shape_a[:-1]), shape_a[-1])
        return multiply(backend, rows, b, out_dtype).reshape(shape_a[:-1] + shape_b[-1:])
    return multiply(backend, a, b, out_dtype)


def _product(backend, a, b, out_dtype=None):
    if backend.xp is not np:
        return backend.xp.matmul(a, b)
    # inf * 0 is NaN as in PyTorch, without NumPy's warning
    a, b = _for_blas(a), _for_blas(b)
    n = max(a.shape[0] if a.ndim > 2 else 1, b.shape[0] if b.ndim > 2 else 1)
    batched = a.ndim > 2 or b.ndim > 2
    if batched and n > 1 and a.ndim == b.ndim and a.size * b.shape[-1] >= _THREADED:
        out = np.empty(np.broadcast_shapes(a.shape[:-2], b.shape[:-2]) + (a.shape[-2], b.shape[-1]), a.dtype)

        def run(piece):
            with np.errstate(all="ignore"):  # NumPy's error state belongs to the thread
                np.matmul(a[piece] if a.shape[0] == n else a, b[piece] if b.shape[0] == n else b, out=out[piece])

        threads.each(run, threads.split(n))
        return out
    with np.errstate(all="ignore"):
        return np.matmul(a, b)


def _half_product(backend, a, b, out_dtype):
    """float16 and bfloat16 in float32 throughout, rounded once: on the CPU (512^3: 1 ms, 313 ms in NumPy's float16),
    and bfloat16 on a GPU whose cuBLAS has none."""
    product = _product(backend, a.astype(np.float32), b.astype(np.float32))
    with np.errstate(over="ignore"):  # beyond the largest float16 is inf
        return product.astype(out_dtype, copy=False)


def _for_blas(a):
    """The array itself if its matrices have a unit stride that BLAS takes, transposed or not; else a copy.

    NumPy before 2.3 multiplies other layouts without BLAS: 512^3 with a negative stride 170 ms, 4.7 ms copied.
    """
    item = a.itemsize
    rows, columns = a.strides[-2:]
    if (columns == item and rows >= item * a.shape[-1]) or (rows == item and columns >= item * a.shape[-2]):
        return a
    return a.copy()


def _rows_are_one_axis(a):
    """Whether all dimensions but the last have even spacing, so that folding them is a view."""
    shape, strides = a.shape, a.strides
    return all(strides[i] == strides[i + 1] * shape[i + 1] for i in range(a.ndim - 2))


def _broadcast(shape_a, shape_b):
    if len(shape_a) == 2 or len(shape_b) == 2:
        return True
    return all(m == n or m == 1 or n == 1 for m, n in zip(shape_a[-3::-1], shape_b[-3::-1], strict=False))


def _no_fit(shape_a, shape_b):
    return RuntimeError(f"[matmul] shapes {shape_a} and {shape_b} cannot be multiplied: the last dimension of the "
                        "first must equal the last but one of the second, leading dimensions must be equal or 1")
