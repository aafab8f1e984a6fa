"""Where the elements of a strided array lie: which bytes of its memory they touch, counted without visiting each."""
from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

__all__ = ["Layout", "address_of", "bounds_of", "layout_of", "owner_of", "share_elements"]

MOST = 1 << 22  # bytes of an irregular pattern that are visited one by one


def address_of(array) -> int:
    """The address of an array's first element, on its device."""
    interface = getattr(array, "__cuda_array_interface__", None) or array.__array_interface__
    return interface["data"][0]


def owner_of(array) -> tuple[object, object | None]:
    """(the last array that an array's memory is known to belong to, the object behind that which is no array)."""
    owner, beyond = array, getattr(array, "base", None)
    while beyond is not None:
        if hasattr(beyond, "strides") and hasattr(beyond, "dtype"):
            owner = beyond
        following = getattr(beyond, "base", None)
        if following is None:
            break
        beyond = following
    return owner, None if beyond is owner else beyond


def bounds_of(array) -> tuple[int, int]:
    """(lowest address, address behind the highest byte) of an array's elements; equal for an empty one."""
    low = high = address_of(array)
    if not array.size:
        return low, low
    for n, s in zip(array.shape, array.strides):
        low, high = low + min(0, (n - 1) * s), high + max(0, (n - 1) * s)
    return low, high + array.dtype.itemsize


def share_elements(a, b) -> bool | None:
    """Whether two arrays of one device have a byte in common; None where that takes long to find out."""
    try:
        return bool(np.shares_memory(np.asarray(_Shadow(a)), np.asarray(_Shadow(b)), 100_000))  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return None


class _Shadow:
    """The addresses of an array without its contents, which nothing may read: they may lie on a device."""

    def __init__(self, array):
        self.__array_interface__ = {"version": 3, "data": (address_of(array) or 1, True), "shape": array.shape,
                                    "strides": array.strides, "typestr": f"|V{array.dtype.itemsize}"}


def layout_of(array) -> Layout:
    """The layout of an array within the memory of its owner."""
    owner, _ = owner_of(array)
    (low, high), start = bounds_of(owner), address_of(array)
    return Layout(tuple(array.shape), tuple(array.strides), array.dtype.itemsize, start - low if array.size else 0,
                  high - low)


@dataclass(frozen=True)
class Layout:
    """`strides` in bytes; `start`: bytes from the memory's beginning to element [0, ..., 0]; `memory`: its bytes."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int
    start: int
    memory: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def span(self) -> tuple[int, int]:
        """(first byte, byte behind the last) between which all elements lie."""
        if not self.elements:
            return self.start, self.start
        steps = [(n - 1) * s for n, s in zip(self.shape, self.strides)]
        return (self.start + sum(s for s in steps if s < 0),
                self.start + sum(s for s in steps if s > 0) + self.itemsize)

    @cached_property
    def pattern(self) -> list[tuple[int, int]]:
        """[(distance in bytes, how many), ...] from the inside out, beginning with the bytes of an element.

        Dimensions that continue each other are one, those that repeat the same elements (stride 0) are none.
        """
        dims = sorted((abs(s), n) for n, s in zip(self.shape, self.strides) if n > 1 and s)
        found = [(1, self.itemsize)]
        for s, n in dims:
            inner, count = found[-1]
            if s % inner == 0 and s // inner <= count:
                found[-1] = (inner, count + (n - 1) * (s // inner))
            else:
                found.append((s, n))
        return found

    @property
    def nested(self) -> bool:
        """Whether each dimension steps over all that the inner ones reach, so that no byte is counted twice."""
        reach = 1
        for s, n in self.pattern:
            if s < reach:
                return False
            reach += (n - 1) * s
        return True

    @cached_property
    def _visited(self):
        """All touched bytes of an irregular pattern, sorted; None where there are too many."""
        if math.prod(n for _, n in self.pattern) > MOST:
            return None
        found = np.zeros(1, np.int64)
        for s, n in self.pattern:
            found = np.unique(np.add.outer(found, s * np.arange(n)))
        return found

    def touched(self, low: int | None = None, high: int | None = None) -> int | None:
        """How many different bytes from `low` up to `high` the elements lie in; None where that is not known: an
        irregular pattern of many overlapping elements."""
        if not self.elements:
            return 0
        first = self.span[0]
        low, high = (0 if low is None else low) - first, (self.memory if high is None else high) - first
        if self.nested:
            return _below(self.pattern[::-1], high) - _below(self.pattern[::-1], low)
        if self._visited is None:
            return None
        return int(np.searchsorted(self._visited, high) - np.searchsorted(self._visited, low))

    @property
    def repeats(self) -> int:
        """How many elements each touched one stands for by strides of 0."""
        return math.prod(n for n, s in zip(self.shape, self.strides) if s == 0) if self.elements else 1

    @property
    def kind(self) -> str:
        """A word for the layout, as one says in PyTorch's and NumPy's documents."""
        if not self.elements:
            return "empty"
        expected, contiguous = self.itemsize, True
        for n, s in zip(reversed(self.shape), reversed(self.strides)):
            contiguous = contiguous and (n == 1 or s == expected)
            expected *= n
        if contiguous:
            return "contiguous"
        if self.repeats > 1:
            return "broadcast"
        if self.touched() != self.elements * self.itemsize:
            return "overlapping"
        if len(self.pattern) > 1:
            return "strided"
        return "reversed" if any(s < 0 for n, s in zip(self.shape, self.strides) if n > 1) else "permuted"

    def aligned(self) -> bool:
        """Whether every element lies at a multiple of its size."""
        return all(s % self.itemsize == 0 for s in (self.start, self.memory, *self.strides))

    def inside(self, low: int, high: int) -> Iterator[tuple[int, tuple[int | None, ...]]]:
        """(byte, index) of the elements between two bytes; an index has None where the stride is 0."""
        if not self.elements:
            return
        order = sorted((i for i, s in enumerate(self.strides) if s and self.shape[i] > 1),
                       key=lambda i: -abs(self.strides[i]))
        reach = [0]
        for i in reversed(order):
            reach.insert(0, reach[0] + (self.shape[i] - 1) * abs(self.strides[i]))
        index: list[int | None] = [None if s == 0 and n > 1 else 0 for n, s in zip(self.shape, self.strides)]

        def walk(k, at):
            if k == len(order):
                yield at, tuple(index)
                return
            i, s = order[k], abs(self.strides[order[k]])
            first = max(0, -((at + reach[k + 1] - low) // s))
            for step in range(first, min(self.shape[i] - 1, (high - 1 - at) // s) + 1):
                index[i] = step if self.strides[i] > 0 else self.shape[i] - 1 - step
                yield from walk(k + 1, at + step * s)

        for at, where in walk(0, self.span[0]):
            if low <= at < high:
                yield at, where


def _below(dims, limit: int) -> int:
    """How many sums of multiples of the dimensions (outermost first, nested) are below a limit."""
    count = 0
    while limit > 0:
        if not dims:
            return count + 1
        (s, n), dims = dims[0], dims[1:]
        reach = 1 + sum((m - 1) * t for t, m in dims)
        full = min(n, (limit - reach) // s + 1) if limit >= reach else 0
        count += full * math.prod(m for _, m in dims)
        if full == n:
            break
        limit -= full * s
    return count
