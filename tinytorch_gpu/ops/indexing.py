"""Indexing with brackets: integers, slices, None and ... as views; tensors, lists and masks as copies."""
from __future__ import annotations

import math

import numpy as np

from .. import ops
from ..autograd.operator import Operator, array_of
from ..backend import streams
from ..backend.device import backend_of, host_array, is_array
from ..backend.errors import check_indices
from ..tensor import Tensor
from . import segments
from .registry import public
from .views import _ViewOperator

_BASIC = frozenset((int, slice, type(None), type(Ellipsis)))
_ALL = slice(None)


class Slice(_ViewOperator):
    """Basic indexing: a view. `index` is a tuple that ends with an Ellipsis or has one."""

    __slots__ = ("index", "full")

    def forward(node, x, index):
        node.index, node.full = index, x.shape
        return x[index]

    def backward(node, grad):
        return SliceBackward.apply(grad, size=node.full, index=node.index)


class SliceBackward(Operator):
    """Zeros of shape `size` in which the part `index` is the input."""

    __slots__ = ("index",)

    def forward(node, part, size, index):
        node.index = index
        out = node.xp.zeros(size, part.dtype)
        out[index] = part
        return out

    def backward(node, grad):
        return Slice.apply(grad, index=node.index)


class Index(Operator):
    """Advanced indexing: a copy. `index` holds index arrays and full slices, or one mask of leading dimensions."""

    __slots__ = ("index", "full")

    def forward(node, x, index):
        node.index, node.full = kept(node, index), x.shape
        return gather_rows(x, index)

    def backward(node, grad):
        return IndexBackward.apply(grad, size=node.full, index=node.index)


class IndexBackward(Operator):
    """Zeros of shape `size` to which the input is added at `index`: repeated positions sum, in a fixed order."""

    __slots__ = ("index",)

    def forward(node, grad, size, index):
        node.index = index
        return scatter_rows(grad, size, index)

    def backward(node, grad):
        return Index.apply(grad, index=node.index)


def kept(node, index):
    """The index for backward: copied when recorded, because the user may change it in place."""
    if node.edges is None:
        return index
    if index.__class__ is tuple:
        return tuple([v if v.__class__ is slice else v.copy() for v in index])
    return index.copy()


def gather_rows(x, index):
    """x[index] for prepared indices."""
    positions = [i for i, part in enumerate(index) if part.__class__ is not slice]
    if len(positions) == 1 and index[positions[0]].dtype.kind != "b":
        axis = positions[0]
        return x.take(index[axis], axis=axis)  # 2048 rows of 128 float32: 60 us against 250 us for x[index]
    return x[index]


def scatter_rows(grad, size, index):
    """Zeros of shape `size` plus `grad` at prepared indices."""
    xp = backend_of(grad).xp
    positions = [i for i, part in enumerate(index) if part.__class__ is not slice]
    if index[positions[0]].dtype.kind == "b":
        out = xp.zeros(size, grad.dtype)
        out[index] = grad
        return out
    row, rank, front = linear(xp, size, index, positions)
    rest = [n for i, n in enumerate(size) if i not in positions]
    rows = xp.moveaxis(grad, range(front, front + rank), range(rank)) if front else grad
    count = math.prod([size[i] for i in positions])
    out = segments.segment_sum(rows.reshape(row.size, math.prod(rest)), row.reshape(-1), count)
    out = out.reshape([size[i] for i in positions] + rest)
    if positions != list(range(len(positions))):
        out = xp.moveaxis(out, range(len(positions)), positions)
    return out


def linear(xp, size, index, positions):
    """(row number of every picked position over the indexed dimensions, rank of the index, its place in the result)."""
    row = None
    for i in positions:
        part = index[i]
        part = xp.where(part < 0, part + size[i], part)
        row = part if row is None else row * size[i] + part
    adjacent = positions[-1] - positions[0] + 1 == len(positions)
    return row, row.ndim, positions[0] if adjacent else 0


# from what the user writes to what the operators take

def _item(value):
    """One entry of an index, as int, slice, None, Ellipsis, bool or raw array."""
    kind = value.__class__
    if kind in _BASIC:
        return value
    if isinstance(value, Tensor):
        value = value._array
        if value.ndim == 0 and value.dtype.kind in "iu" and value.dtype != np.uint8:
            return int(host_array(value))
        return value
    if isinstance(value, (bool, np.bool_)):
        return np.asarray(bool(value))
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.ndarray) or is_array(value):
        return int(host_array(value)) if value.ndim == 0 and value.dtype.kind in "iu" else value
    if isinstance(value, (list, tuple, range)):
        array = ops.tensor(list(value), device="cpu")._array
        return array.astype(np.int64) if array.size == 0 else array
    if hasattr(value, "__index__"):
        return value.__index__()
    raise IndexError(
        f"[getitem] only integers, slices, ellipsis, None and integer or boolean tensors are valid indices, got "
        f"{type(value).__name__}"
    )


def _slice(value):
    """A slice of ints. Raises: ValueError for a step below 1."""
    step = value.step
    if step is not None:
        step = step.__index__()
        if step <= 0:
            raise ValueError(f"[getitem] step must be greater than zero, got {step}: use flip()")
    start, stop = [v if v is None or v.__class__ is int else v.__index__() for v in (value.start, value.stop)]
    return slice(start, stop, step)


def parse(x, index):
    """(basic index, advanced index or None): first a view is taken by the basic one, then the other picks from it.

    Integers are taken out first, so that the result's dimensions stand where PyTorch puts them.
    """
    items = [_item(v) for v in index] if index.__class__ is tuple else [_item(index)]
    width = advanced = 0
    for v in items:
        if v.__class__ in (int, slice):
            width += 1
        elif v is not None and v is not Ellipsis:
            if v.dtype == np.uint8:
                raise IndexError("[getitem] uint8 masks are not supported: convert the mask with .bool()")
            if v.dtype.kind != "b" and v.dtype not in (np.int64, np.int32):
                raise IndexError(f"[getitem] tensors used as indices must be int64, int32 or bool, got {v.dtype}")
            width += v.ndim if v.dtype.kind == "b" else 1
            advanced += 1
    if width > x.ndim:
        raise IndexError(f"[getitem] too many indices for tensor of dimension {x.ndim}: got {width}")
    basic, late, seen, axis = [], [], False, 0
    for v in items:
        if v.__class__ is int:
            n = x.shape[axis]
            if not -n <= v < n:
                raise IndexError(f"[getitem] index {v} is out of bounds for dimension {axis} with size {n}")
            basic.append(v)
            axis += 1
        elif v.__class__ is slice:
            basic.append(_slice(v))
            late.append(_ALL)
            axis += 1
        elif v is None:
            basic.append(v)
            late.append(_ALL)
        elif v is Ellipsis:
            if seen:
                raise IndexError("[getitem] an index can only have a single ellipsis ('...')")
            seen = True
            basic.append(v)
            late.extend([_ALL] * (x.ndim - width))
            axis += x.ndim - width
        elif v.ndim == 0 and v.dtype.kind == "b":
            basic.append(None)
            late.append(v.reshape(1))
        else:
            n = v.ndim if v.dtype.kind == "b" else 1
            basic.extend([_ALL] * n)
            late.append(v)
            axis += n
    if not seen:
        basic.append(Ellipsis)
    return tuple(basic), prepare(x, basic, late) if advanced else None


def prepare(x, basic, late):
    """Index arrays on the array's device, masks as positions (one mask in front stays), broadcast and checked."""
    shape = _shape_after(x, basic)
    backend = backend_of(x)
    out, axis = [], 0
    arrays = [v for v in late if v.__class__ is not slice]
    for v in late:
        if v.__class__ is slice:
            out.append(v)
            axis += 1
            continue
        v = on_device(v, backend, x)
        if v.dtype.kind == "b":
            if streams.several:
                streams.before((v,))
            _check_mask(v, shape, axis)
            if len(arrays) == 1 and axis == 0:
                return (v,)
            out.extend(v.nonzero())
            axis += v.ndim
        else:
            out.append(v)
            axis += 1
    return check(shape, out)


def check(shape, index):
    """The index as a tuple. Raises: IndexError out of range, or when its arrays do not broadcast."""
    arrays = [v for v in index if v.__class__ is not slice]
    if len(arrays) > 1:
        try:
            np.broadcast_shapes(*[v.shape for v in arrays])
        except ValueError:
            raise IndexError(
                f"[getitem] shape mismatch: indexing tensors could not be broadcast together with shapes "
                f"{', '.join(str(list(v.shape)) for v in arrays)}"
            ) from None
    for d, v in enumerate(index):
        if v.__class__ is not slice:
            in_range("getitem", v, shape[d], d)
    return tuple(index)


def in_range(op, index, n, dim, low=None, raises=IndexError):
    """Raises: IndexError (or `raises`) for an index outside [low, n), low being -n; on a device at its next wait."""
    check_indices(op, index, -n if low is None else low, n, raises=raises,
                  text=f"index {{value}} is out of bounds for dimension {dim} with size {n}")


def on_device(index, backend, x):
    """An index on the device of `x`; host indices may be used on any device, as in PyTorch."""
    here = backend_of(index)
    if here is backend:
        return index
    if here.type != "cpu":
        raise RuntimeError(f"[getitem] indices should be on the same device as the indexed tensor "
                           f"({backend.device_of(x)}) or on the cpu, got {here.device_of(index)}")
    return backend.from_host(index, backend.device_of(x).index)


def same_device(op, other, x):
    """`other`, which must live where `x` does; a host number (0-d) is moved there, as in PyTorch."""
    here, backend = backend_of(other), backend_of(x)
    if here is backend:
        return other
    if other.ndim == 0 and here.type == "cpu":
        return backend.from_host(other, backend.device_of(x).index)
    raise RuntimeError(f"[{op}] expected all tensors to be on the same device, but found {backend.device_of(x)} and "
                       f"{here.device_of(other)}: move one with .to(device)")


def _check_mask(mask, shape, axis):
    for i, n in enumerate(mask.shape):
        if n != shape[axis + i]:
            raise IndexError(
                f"[getitem] the shape of the mask {list(mask.shape)} at index {i} does not match the shape of the "
                f"indexed tensor {list(shape)} at index {axis + i}"
            )


def _shape_after(x, basic):
    """The shape of x[basic] without making it."""
    shape, axis = [], 0
    consumed = sum(1 for v in basic if v is not None and v is not Ellipsis)
    for v in basic:
        if v is None:
            shape.append(1)
        elif v is Ellipsis:
            rest = x.ndim - consumed
            shape.extend(x.shape[axis:axis + rest])
            axis += rest
        else:
            if v.__class__ is slice:
                shape.append(len(range(*v.indices(x.shape[axis]))))
            axis += 1
    return shape


def is_trivial(basic):
    """Whether a basic index selects everything as it is."""
    return all(v is Ellipsis or v.__class__ is slice and v == _ALL for v in basic)


@public(method=["__getitem__"])
def getitem(input, index):
    """input[index] with PyTorch's basic (views) and advanced (copies) indexing.

    Raises: IndexError out of range or for too many indices, ValueError for a negative step.
    """
    x = input._array if input.__class__ is Tensor else array_of(input)
    kind = index.__class__
    if kind is int:
        if x.ndim and -x.shape[0] <= index < x.shape[0]:
            return Slice.apply(input, index=(index, ...))
    elif kind is slice and index.step is None and x.ndim:
        return Slice.apply(input, index=(_slice(index), ...))
    basic, late = parse(x, index)
    if late is None:
        return Slice.apply(input, index=basic)
    if not is_trivial(basic):
        input = Slice.apply(input, index=basic)
    return Index.apply(input, index=late)
