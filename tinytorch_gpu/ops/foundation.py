"""What the engine itself needs: conversions, copies, sums over broadcast dimensions."""
from __future__ import annotations

from .. import ops
from ..autograd.operator import Operator, array_of, wide
from ..backend import dtypes, kernel_columns
from ..backend.device import backend_for, backend_of
from ..tensor import Tensor, make
from .registry import public
from .sums import sum_leading


class Cast(Operator):
    """Another dtype; complex to real takes the real part. The gradient is cast back by the engine."""

    def forward(node, x, dtype):
        if x.dtype.kind == "c" and dtype.kind != "c":
            x = x.real
        # NaN and infinity have no integer, large numbers are infinite in half types: as PyTorch, no warning
        if x.dtype.kind not in "iub" and (dtype.kind in "iu" or dtype in dtypes.HALF):
            with dtypes.quiet():
                return x.astype(dtype)
        return x.astype(dtype)

    def backward(node, grad):
        return grad


class Clone(Operator):
    """A copy of the memory."""

    def forward(node, x):
        return x.copy()

    def backward(node, grad):
        return grad


class SumToSize(Operator):
    """The sum over the dimensions in which `size` was broadcast; half types accumulate in float32."""

    def axes(node, x, size):
        lead = x.ndim - len(size)
        return tuple(range(lead)) + tuple(lead + i for i, n in enumerate(size) if n == 1 and x.shape[lead + i] != 1)

    def fused(node, x, size):
        node.full = x.shape
        out = kernel_columns.leading_sums(x, node.axes(x, size))
        return None if out is None else out.reshape(size)

    def forward(node, x, size):
        node.full, axes = x.shape, node.axes(x, size)
        if not axes:
            return x
        if axes == tuple(range(len(axes))):
            out = sum_leading(wide(x), len(axes))
        else:
            out = wide(x).sum(axis=axes, keepdims=True)
        return out.reshape(size).astype(x.dtype)

    def backward(node, grad):
        return ops.expand(grad, node.full)


class Expand(Operator):
    """A broadcast view. The engine sums the gradient back."""

    view = True

    def forward(node, x, size):
        return node.xp.broadcast_to(x, size)

    def backward(node, grad):
        return grad


class ViewScatter(Operator):
    """A copy of `x` in which the part that `steps` view is replaced by `part` (None: zeros)."""

    def forward(node, x, part, steps):
        node.steps = steps
        out = x.copy()
        region = out
        for operator, params in steps:
            region = operator.apply(region, **params)
        region[...] = 0 if part is None else part
        return out

    def backward(node, grad):
        part = None
        if node.need(1):
            part = grad
            for operator, params in node.steps:
                part = operator.apply(part, **params)
        return ops.view_scatter(grad, None, node.steps), part


class Transfer(Operator):
    """The same values on another device."""

    def forward(node, x, device):
        node.origin = backend_of(x).device_of(x)
        return move(x, device)

    def backward(node, grad):
        return ops.transfer(grad, node.origin)


def move(array, where):
    """A raw array on device `where` (the same array if it is there already)."""
    here, there = backend_of(array), backend_for(where)
    if here is there:
        return there.to_index(array, where.index)
    return there.from_host(here.to_host(array), where.index)


@public
def wrap(array):
    """A leaf Tensor over a raw array."""
    return make(array)


@public
def transfer(input, where):
    """`input` on another device; internal to `Tensor.to`."""
    return Transfer.apply(input, device=where)


@public
def view_scatter(input, part, steps):
    """`input` with a viewed part replaced; internal to in-place changes of views."""
    return ViewScatter.apply(input, part, steps=steps)


@public
def cast(input, dtype):
    """`input` in a numpy dtype; the same object when it has it already."""
    return input if array_of(input).dtype == dtype else Cast.apply(input, dtype=dtype)


@public(method=True)
def sum_to_size(input, *size):
    """The sum over the dimensions that broadcasting `size` to `input.shape` would repeat. As torch.Tensor.sum_to_size.

    Raises: RuntimeError when `size` does not broadcast to the shape.
    """
    size = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else size
    shape = array_of(input).shape
    if len(size) > len(shape) or any(a not in (1, b) for a, b in zip(reversed(size), reversed(shape))):
        raise RuntimeError(f"[sum_to_size] size {list(size)} is not expandable to size {list(shape)}")
    return input if shape == size else SumToSize.apply(input, size=size)


@public(method=True)
def expand(input, *size):
    """A broadcast view of shape `size`; -1 keeps a dimension. As torch.Tensor.expand.

    Raises: RuntimeError when a dimension that is not 1 would change.
    """
    size = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else size
    shape = array_of(input).shape
    lead = len(size) - len(shape)
    full = tuple(shape[i - lead] if n == -1 and i >= lead else n for i, n in enumerate(size))
    if lead < 0 or any(n < 0 for n in full) or any(
        a != b and a != 1 for a, b in zip(shape, full[lead:])
    ):
        raise RuntimeError(
            f"[expand] the expanded size {list(size)} must match the existing size {list(shape)} where that is not 1"
        )
    return input if full == shape else Expand.apply(input, size=full)


@public(method=True)
def expand_as(input, other):
    """`input` expanded to the shape of `other`. As torch.Tensor.expand_as."""
    return expand(input, array_of(other).shape)


@public(method=True)
def clone(input):
    """A copy that stays in the graph. As torch.clone."""
    return Clone.apply(input)


@public(method=True)
def contiguous(input):
    """`input` in C order: itself if it is already, else a copy. As torch.Tensor.contiguous."""
    return input if array_of(input).flags.c_contiguous else Clone.apply(input)


@public(method=True)
def to(input, *args, dtype=None, device=None, copy=False, non_blocking=False):
    """`input` with another dtype or device, or like another tensor; itself if nothing changes. As torch.Tensor.to."""
    from ..backend.device import device as device_class

    for a in args:
        if isinstance(a, Tensor):
            dtype, device = a.dtype, a.device
        elif isinstance(a, (str, device_class)) and not (isinstance(a, str) and a in dtypes.NAMES):
            device = a
        elif isinstance(a, bool):
            raise TypeError("[to] pass copy= by name")
        else:
            dtype = a
    out = input
    if dtype is not None:
        wish = dtypes.from_any(dtype).np
        if out._array.dtype != wish:
            out = Cast.apply(out, dtype=wish)
    if device is not None:
        where = device_class(device)
        here = out.device
        if here.type != where.type or (where.index is not None and here.index != where.index):
            out = Transfer.apply(out, device=where)
    return clone(out) if copy and out is input else out


