"""Tensor: an array, the edge of the graph that made it, and nothing else.

Floor 1. The operator families attach methods and operators when they are imported (`attach`), so that this file
imports none of them.
"""
from __future__ import annotations

import weakref

from .autograd.modes import state
from .backend import dtypes, streams
from .backend.device import device_of, host_array

__all__ = ["Tensor", "attach"]


class Version:
    """Counts the in-place changes of one piece of memory; every view of it shares the counter."""

    __slots__ = ("value",)

    def __init__(self):
        self.value = 0


class View:
    """How a view comes from its base: operators to replay when the base was changed in place."""

    __slots__ = ("base", "steps", "seen", "constant")

    def __init__(self, base, steps, seen, constant):
        self.base = base  # a Tensor that is no view itself
        self.steps = steps  # ((operator class, params), ...), applied in order to the base
        self.seen = seen  # the version for which the view's node holds
        self.constant = constant  # made while nothing was recorded


INFERENCE = Version()  # the counter of every tensor made in inference mode: such tensors cannot be saved


class Tensor:
    """A multi-dimensional array with gradients. As torch.Tensor; made by `tensor()` and by operators.

    The raw array (numpy, cupy) is `_array`; `.data` is PyTorch's.
    """

    __slots__ = (
        "_array", "_node", "_index", "_req", "_grad", "_version_", "_view", "_leaf", "_hooks", "__weakref__",
        "__dict__",
    )
    __array_priority__ = 1000  # numpy_array * tensor is the tensor's __rmul__
    __hash__ = object.__hash__

    def __new__(cls, *args, **kwargs):
        return object.__new__(cls)

    def __init__(self, array, requires_grad=False):
        _fill(self, _raw(array))
        if requires_grad:
            self.requires_grad = True

    # what it is

    @property
    def shape(self):
        """The sizes of the dimensions, a tuple."""
        return self._array.shape

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return self._array.ndim

    @property
    def dtype(self):
        """The element type."""
        return dtypes.of(self._array)

    @property
    def device(self):
        """Where the array lives."""
        return device_of(self._array)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self._array.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self._array.nbytes

    # autograd

    @property
    def requires_grad(self) -> bool:
        """Whether operators on this tensor are recorded."""
        return self._req

    @requires_grad.setter
    def requires_grad(self, value):
        value = bool(value)
        if value and not dtypes.is_float(self._array.dtype):
            raise RuntimeError(
                f"[requires_grad] only floating and complex tensors can require gradients, got {self.dtype.name}"
            )
        if self._node is not None and not value:
            raise RuntimeError(
                "[requires_grad] you can only change requires_grad flags of leaf tensors; use detach() for a tensor "
                "that does not require grad"
            )
        if value and self._version_ is INFERENCE and not state.inference:
            raise RuntimeError("[requires_grad] inference tensors cannot require grad outside inference_mode: clone()")
        self._req = value

    @property
    def is_leaf(self) -> bool:
        """Whether no operator made this tensor (or none was recorded)."""
        return self._node is None

    @property
    def grad_fn(self):
        """The node of the graph that made this tensor, None for a leaf."""
        if self._view is not None:
            self._refresh()
        return self._node

    @property
    def output_nr(self) -> int:
        """Which output of its `grad_fn` this tensor is."""
        return self._index

    @property
    def grad(self):
        """The accumulated gradient, a Tensor of the same shape, or None."""
        return self._grad

    @grad.setter
    def grad(self, value):
        if value is not None:
            if not isinstance(value, Tensor):
                raise TypeError(f"[grad] expected a Tensor or None, got {type(value).__name__}")
            if value is self:
                raise RuntimeError("[grad] a tensor cannot be its own gradient")
            if value.shape != self.shape or value.dtype is not self.dtype or value.device != self.device:
                raise RuntimeError(
                    f"[grad] expected a gradient like the tensor, {self.dtype.name} {self.shape} on {self.device}, "
                    f"got {value.dtype.name} {value.shape} on {value.device}"
                )
        self._grad = value

    @property
    def data(self):
        """The same memory, outside the graph and with a version counter of its own. As torch.Tensor.data."""
        return make(self._array)

    @data.setter
    def data(self, value):
        if not isinstance(value, Tensor):
            raise TypeError(f"[data] expected a Tensor, got {type(value).__name__}")
        if value.dtype.category < dtypes.FLOAT and self._req:
            raise RuntimeError(f"[data] a tensor that requires grad cannot become {value.dtype.name}")
        self._array = value._array
        self._leaf = None  # a living graph may hold the end of the old array: its dtype need not be the new one's

    def detach(self):
        """The same memory, outside the graph; shares the version counter. As torch.Tensor.detach."""
        out = make(self._array)
        out._version_ = self._counter()
        return out

    def requires_grad_(self, requires_grad: bool = True):
        """Set `requires_grad` in place and return the tensor."""
        self.requires_grad = requires_grad
        return self

    def retain_grad(self) -> None:
        """Keep `.grad` of this non-leaf tensor in backward. As torch.Tensor.retain_grad."""
        if not self._req:
            raise RuntimeError("[retain_grad] can't retain_grad on a tensor that has requires_grad=False")
        node = self.grad_fn
        if node is not None:
            node.hook_table().retain[self._index] = weakref.ref(self)

    @property
    def retains_grad(self) -> bool:
        """Whether retain_grad() holds for this non-leaf tensor."""
        node = self.grad_fn
        held = node.hooks.retain.get(self._index) if node is not None and node.hooks is not None else None
        return held is not None and held() is self

    @property
    def _version(self) -> int:
        """How many in-place changes its memory has seen."""
        counter = self._version_
        if counter is INFERENCE:
            raise RuntimeError("[_version] inference tensors do not track versions")
        return 0 if counter is None else counter.value

    @property
    def _base(self):
        """The tensor that this one is a view of, None when it is no view."""
        return None if self._view is None else self._view.base

    def _is_view(self) -> bool:
        return self._view is not None

    def is_inference(self) -> bool:
        """Whether it was made in inference mode."""
        return self._version_ is INFERENCE

    def _counter(self) -> Version:
        counter = self._version_
        if counter is None:
            counter = self._version_ = Version()
        return counter

    def _bump(self) -> None:
        """Note that the memory was changed in place."""
        counter = self._version_
        if counter is None:
            counter = self._version_ = Version()
        counter.value += 1

    def _refresh(self) -> None:
        """Rebuild the edge of a view whose base was changed in place through another tensor."""
        view = self._view
        if view.seen != self._version_.value:
            base = view.base
            if not view.constant and base._req and base.grad_fn is not None:
                outer, state.grad = state.grad, True
                try:
                    fresh = base
                    for operator, params in view.steps:
                        fresh = operator.apply(fresh, **params)
                finally:
                    state.grad = outer
                self._node, self._index, self._req = fresh._node, fresh._index, True
            view.seen = self._version_.value

    def _edge(self):
        """Where a gradient for this tensor goes: a node, or (node, output number); None when it requires none."""
        if not self._req:
            return None
        if self._view is not None:
            self._refresh()
        node = self._node
        if node is None:
            return leaf_node(self)
        return (node, self._index) if node.metas is not None else node

    # conversions of one element; the array protocols

    def item(self):
        """The only element as a Python number. Waits for the device. Raises: RuntimeError for other sizes."""
        if self._array.size != 1:
            raise RuntimeError(
                f"[item] a Tensor with {self._array.size} elements cannot be converted to Scalar; "
                "index one element or use tolist()"
            )
        array = host_array(self._array)
        return array.item() if array.dtype.kind != "V" else float(array.item())

    def __bool__(self):
        if self._array.size != 1:
            raise RuntimeError(
                f"[bool] the truth of a Tensor with {self._array.size} elements is ambiguous: use any() or all()"
            )
        return bool(self.item())

    def __float__(self):
        return float(self._number("float"))

    def __int__(self):
        return int(self._number("int"))

    def __complex__(self):
        return complex(self._number("complex"))

    def _number(self, kind):
        """The only element, real unless `kind` is complex. PyTorch's item() has another class for other sizes."""
        if self._array.size != 1:
            raise ValueError(f"[{kind}] only one element tensors can be converted to Python scalars, got shape "
                             f"{self.shape}: index one element or use tolist()")
        number = self.item()
        if kind != "complex" and number.__class__ is complex:
            if number.imag:
                raise RuntimeError(f"[{kind}] the complex value {number} cannot be converted without loss: take .real "
                                   "or abs()")
            return number.real
        return number

    def __index__(self):
        if self.dtype.category > dtypes.INT or self._array.size != 1:
            raise TypeError("[index] only integer tensors of a single element can be converted to an index")
        return int(self.item())

    def __len__(self):
        if self._array.ndim == 0:
            raise TypeError("[len] len() of a 0-d tensor")
        return self._array.shape[0]

    def __iter__(self):
        if self._array.ndim == 0:
            raise TypeError("[iter] iteration over a 0-d tensor")
        return (self[i] for i in range(self._array.shape[0]))

    def __reversed__(self):
        return self.flip(0) if self._array.ndim else self

    def __contains__(self, element):
        return bool((self == element).any())


def leaf_node(tensor):
    """The node that accumulates into a leaf; one for as long as some graph holds it."""
    ref = tensor._leaf
    node = ref() if ref is not None else None
    if node is None:
        node = AccumulateGrad(tensor)
        tensor._leaf = weakref.ref(node)
    return node


AccumulateGrad = None  # set by autograd.operator, which defines nodes
_new = object.__new__


def _fill(t, array) -> None:
    t._array = array
    t._node = None
    t._index = 0
    t._req = False
    t._grad = None
    t._version_ = INFERENCE if state.inference else None
    t._view = None
    t._leaf = None
    t._hooks = None


def make(array) -> Tensor:
    """A leaf over a raw array, without copying."""
    t = _new(Tensor)
    _fill(t, array)
    if streams.several:
        streams.born(array)
    return t


def _raw(value):
    if isinstance(value, Tensor):
        return value._array
    from .backend.device import is_array

    if is_array(value):
        return value
    raise TypeError(f"[Tensor] expected an array, got {type(value).__name__}: use tensor() to convert data")


def attach(name):
    """Decorator: the function becomes Tensor's method `name` (a list of names for several)."""
    def put(function):
        for each in [name] if isinstance(name, str) else name:
            setattr(Tensor, each, function)
        return function

    return put
