"""Embedding: rows of a table by number; the gradient sums rows in a fixed order."""
from __future__ import annotations

import math

from .. import ops
from ..autograd.operator import Operator, array_of, wide
from ..backend import dtypes, errors, kernel_embedding
from ..backend.device import backend_of
from .registry import public
from .segments import segment_sum


class Embedding(Operator):
    """weight[index]: (rows, dim), (...) -> (..., dim). Saves nothing but the numbers."""

    def fused(node, weight, index, padding=None, by_count=False):
        node.index, node.padding, node.by_count, node.rows = index, padding, by_count, weight.shape[0]
        return kernel_embedding.gather(weight, index, "embedding")

    def forward(node, weight, index, padding=None, by_count=False):
        node.index, node.padding, node.by_count, node.rows = index, padding, by_count, weight.shape[0]
        if backend_of(index).type != "cpu":  # there the public function has asked
            errors.check_indices("embedding", index, 0, node.rows, text=kernel_embedding.OUTSIDE)
        return weight.take(index, axis=0)

    def backward(node, grad):
        return ops.embedding_backward(grad, node.index, node.rows, node.padding, node.by_count)


class EmbeddingBackward(Operator):
    """The sum of gradients of each row, in the order of the numbers; nothing for the padding row.

    `by_count` divides each row's sum by how often the row was taken.
    """

    def fused(node, grad, index, rows, padding, by_count):
        node.index, node.rows, node.padding, node.by_count = index, rows, padding, by_count
        if not grad.flags.c_contiguous:
            grad = node.xp.ascontiguousarray(grad)
        flat = grad.reshape(math.prod(index.shape), grad.shape[-1])
        return kernel_embedding.sums(flat, index.reshape(-1), rows, padding, by_count)

    def forward(node, grad, index, rows, padding, by_count):
        node.index, node.rows, node.padding, node.by_count = index, rows, padding, by_count
        flat = grad.reshape(math.prod(index.shape), grad.shape[-1])
        out = segment_sum(wide(flat) if by_count else flat, index.reshape(-1), rows)
        if by_count:
            out = (out / node.counts(out)).astype(grad.dtype)
        if padding is not None:
            out[padding] = 0
        return out

    def counts(node, like):
        """How often each row was taken, at least 1, beside `like` (rows, dim)."""
        xp = backend_of(like).xp
        dtype = dtypes.accumulation(like.dtype)
        ones = xp.ones((node.index.size, 1), dtype)
        return xp.maximum(segment_sum(ones, node.index.reshape(-1), node.rows), dtype.type(1))

    def backward(node, grad):
        if node.by_count:
            grad = ops.div(grad, node.counts(array_of(grad)))
        if node.padding is not None:
            keep = backend_of(node.index).xp.ones((array_of(grad).shape[0], 1), "?")
            keep[node.padding] = False
            grad = ops.where(keep, grad, ops.zeros_like(grad))
        return ops.embedding_rows(grad, node.index)


@public
def embedding_rows(weight, index):
    """weight[index] for a raw integer array; internal."""
    return Embedding.apply(weight, index=index)


@public
def embedding_backward(grad, index, rows, padding, by_count=False):
    """The adjoint of `embedding_rows`; internal."""
    return EmbeddingBackward.apply(grad, index=index, rows=rows, padding=padding, by_count=by_count)


@public(functional=True)
def embedding(input, weight, padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, sparse=False):
    """Rows of `weight` (rows, dim) by the numbers in `input` (...), int32 or int64 -> (..., dim).

    The row `padding_idx` gets no gradient; `scale_grad_by_freq` divides each row's gradient by the number of times that
    the row was taken. As torch.nn.functional.embedding.
    Raises: IndexError for a number outside the table (on a device at the next wait for it, and the row is NaN);
    NotImplementedError for max_norm and sparse.
    """
    if max_norm is not None or sparse:
        raise NotImplementedError("[embedding] max_norm and sparse=True are not there")
    if norm_type != 2.0:
        raise NotImplementedError("[embedding] norm_type belongs to max_norm, which is not there")
    index, table = array_of(input), array_of(weight)
    if index.dtype not in (dtypes.int64.np, dtypes.int32.np):
        raise RuntimeError(f"[embedding] expected indices of int32 or int64, got {dtypes.of(index).name}")
    if table.ndim != 2:
        raise RuntimeError(f"[embedding] 'weight' must be 2-D, got shape {list(table.shape)}")
    backend = backend_of(table)
    if backend_of(index) is not backend:
        raise RuntimeError("[embedding] expected all tensors to be on the same device, but found indices on "
                           f"{backend_of(index).device_of(index)} and weight on {backend.device_of(table)}")
    rows = table.shape[0]
    if padding_idx is not None:
        if not -rows <= padding_idx < rows:
            raise ValueError(f"[embedding] padding_idx {padding_idx} must be within the {rows} rows")
        padding_idx %= rows
    if backend.type == "cpu" and index.size and not (0 <= int(index.min()) and int(index.max()) < rows):
        bad = int(index.min()) if int(index.min()) < 0 else int(index.max())
        raise IndexError(f"[embedding] index out of range in self: {bad} is not within the {rows} rows of the table")
    return Embedding.apply(weight, index=index, padding=padding_idx, by_count=bool(scale_grad_by_freq))
