"""From a list of samples to one batch."""
from __future__ import annotations

import copy
from collections.abc import Mapping, MutableMapping, MutableSequence, Sequence

import numpy as np

from ... import ops
from ...backend import dtypes
from ...backend.device import backend_for, default_device
from ...tensor import Tensor, make

TEXT = "SUO"  # kinds of arrays of strings, bytes and objects
UNEVEN = "[default_collate] each element in list of batch should be of equal size: {}; pad them or give a collate_fn"


def on_default_device(array) -> Tensor:
    """A Tensor on the default device with a host array's values; on the CPU it takes the array itself over."""
    dtypes.of(array)  # raises for those that no Tensor has
    device = default_device()
    return make(backend_for(device).from_host(array, device.index))


def default_convert(data):
    """Arrays inside the structure become Tensors, the rest stays. As torch.utils.data.default_convert.

    Used where nothing is batched (`batch_size=None`).
    """
    if isinstance(data, Tensor):
        return data
    if isinstance(data, (np.ndarray, np.generic)):
        return data if data.dtype.kind in TEXT else on_default_device(np.array(data))
    if isinstance(data, Mapping):
        return _mapping_like(data, {key: default_convert(data[key]) for key in data})
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(default_convert(value) for value in data))
    if isinstance(data, tuple):
        return [default_convert(value) for value in data]
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        return _sequence_like(data, [default_convert(value) for value in data])
    return data


def default_collate(batch):
    """One batch of a list of samples. As torch.utils.data.default_collate.

    Tensors, arrays of one shape and numbers become a Tensor with a new first dimension (floats float64, integers
    int64, arrays their dtype); strings and bytes stay a list; mappings, named tuples and sequences are collated
    entry by entry, tuples as lists. New Tensors are on the default device.
    Raises: RuntimeError for samples that differ in shape or length, TypeError for what cannot be collated.
    """
    first = batch[0]
    if isinstance(first, Tensor):
        _check_shapes(batch)
        return ops.stack(list(batch), 0)
    if isinstance(first, (np.ndarray, np.generic)) and not isinstance(first, (str, bytes)):
        return on_default_device(_stack(batch))
    if isinstance(first, (int, float)):
        return on_default_device(_numbers(batch))
    if isinstance(first, (str, bytes)):
        return batch
    if isinstance(first, Mapping):
        return _mapping_like(first, {key: default_collate([sample[key] for sample in batch]) for key in first})
    if isinstance(first, Sequence):
        sizes = {len(sample) for sample in batch}
        if len(sizes) > 1:
            raise RuntimeError(UNEVEN.format(f"lengths {sorted(sizes)}"))
        columns = [default_collate(column) for column in zip(*batch, strict=True)]
        if isinstance(first, tuple):
            return type(first)(*columns) if hasattr(first, "_fields") else columns
        return _sequence_like(first, columns)
    raise TypeError("[default_collate] batch must contain tensors, numpy arrays, numbers, dicts or lists; found "
                    f"{type(first)}: give the DataLoader a collate_fn")


def _check_shapes(batch) -> None:
    shapes = dict.fromkeys(tuple(sample.shape) for sample in batch)
    if len(shapes) > 1:
        raise RuntimeError(UNEVEN.format("shapes " + " and ".join(map(str, list(shapes)[:2]))))


def _stack(batch):
    if batch[0].dtype.kind in TEXT:
        raise TypeError(f"[default_collate] cannot make a Tensor of arrays of dtype {batch[0].dtype}: "
                        "convert them to numbers or give the DataLoader a collate_fn")
    _check_shapes(batch)
    return np.stack(batch)


def _numbers(batch):
    array = np.array(batch)
    if array.dtype.kind == "f":  # whole numbers first, floats later: the default dtype, as torch.tensor has it
        return array if isinstance(batch[0], float) else array.astype(dtypes.get_default_dtype().np)
    if array.dtype.kind not in "bi":
        raise TypeError(f"[default_collate] numbers {batch!r:.60} fit no common dtype: give a collate_fn")
    return array if array.dtype.kind == "b" else array.astype(np.int64, copy=False)


def _mapping_like(example, entries):
    """A mapping of the example's type with new entries; a plain dict where the type cannot be made so."""
    try:
        if isinstance(example, MutableMapping):
            out = copy.copy(example)  # keeps what a subclass carries beside its entries
            out.update(entries)
            return out
        return type(example)(entries)
    except TypeError:
        return entries


def _sequence_like(example, entries):
    """A sequence of the example's type with new entries; a plain list where the type cannot be made so."""
    try:
        if isinstance(example, MutableSequence):
            out = copy.copy(example)
            for i, value in enumerate(entries):
                out[i] = value
            return out
        return type(example)(entries)
    except TypeError:
        return entries
