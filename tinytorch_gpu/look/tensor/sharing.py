"""Who else lies in a tensor's memory: other Tensors, gradients, what operators saved for backward; and their names."""
from __future__ import annotations

import gc

from ...autograd.anomaly import _EXAMPLES, _PACKAGE
from ...autograd.node import Node
from ...backend.device import device_of, is_array
from ...nn import Module
from ...tensor import Tensor
from ..memory.holders import visit_locals
from ..saved import kept_of
from .layout import address_of, bounds_of, layout_of, owner_of, share_elements

__all__ = ["found_with", "names_of"]


def names_of(objects) -> dict[int, str]:
    """{id of a Tensor: its name}: a variable of a running function, a parameter of such a variable's Module, a
    gradient of either. A name that begins with an underscore counts late; this package's own variables, such as the
    `self` of a method, are nobody's names."""
    variables: dict[int, str] = {}

    def visit(name, value, where, file):
        if not file.startswith(_PACKAGE) or file.startswith(_EXAMPLES):
            variables.setdefault(id(value), f"`{name}` in {where}")

    visit_locals(visit)
    names = {i: said for i, said in variables.items() if not said.startswith("`_")}
    for o in objects:
        if issubclass(type(o), Module) and id(o) in names:
            for name, p in o.named_parameters():
                names.setdefault(id(p), names[id(o)].replace("` in", f".{name}` in", 1))
    for o in objects:
        if issubclass(type(o), Tensor) and id(o) in names and (grad := getattr(o, "_grad", None)) is not None:
            names.setdefault(id(grad), names[id(o)].replace("` in", ".grad` in", 1))
    return {**variables, **names}


def found_with(t) -> tuple[list[dict], dict[int, str]]:
    """(what lies in the memory of `t` beside it, names of Tensors)."""
    everything = gc.get_objects()
    objects = [o for o in everything if issubclass(type(o), (Tensor, Node, Module))]
    del everything
    owner, _ = owner_of(t._array)
    place, (low, high) = device_of(t._array), bounds_of(owner)
    own = (address_of(t._array), t._array.strides, t._array.shape)
    whole = layout_of(t._array).touched() == high - low
    names, rows = names_of(objects), []

    def inside(array) -> dict | None:
        if not is_array(array) or not array.size or device_of(array) != place:
            return None
        first, last = bounds_of(array)
        if not (low <= first and last <= high and first < high):
            other = bounds_of(owner_of(array)[0])  # it may own the memory that a foreign owner shows in part
            if not (other[0] < high and low < other[1]):
                return None
        common = share_elements(array, t._array)
        same = (address_of(array), array.strides, array.shape) == own
        return {"shape": list(array.shape), "offset": first - low, "bytes": array.nbytes,
                "common": "the same" if same else "not known" if common is None else "none" if not common else
                "all" if whole and layout_of(array).touched() == high - low else "some"}

    for o in objects:
        if o is t:
            continue
        if issubclass(type(o), Tensor):
            array = getattr(o, "_array", None)
            row = None if array is None else inside(array)
            if row is not None:
                base, mine = o._view, t._view
                relation = ("its base" if mine is not None and mine.base is o else
                            "a view of it" if base is not None and base.base is t else
                            "a view of the same base" if base is not None and mine is not None
                            and base.base is mine.base else "the same memory")
                rows.append({"what": "tensor", "name": names.get(id(o)), "dtype": o.dtype.name, **row,
                             "relation": relation,
                             "same_version": o._version_ is not None and o._version_ is t._version_})
        elif issubclass(type(o), Node):
            for value, source in kept_of(o) or ():
                array = value._array if issubclass(type(value), Tensor) else value
                row = inside(array)
                if row is not None:
                    rows.append({"what": "saved", "name": f"saved by {o.name()} ({source})",
                                 "dtype": str(array.dtype), **row, "relation": "saved for backward",
                                 "same_version": False})
    order = {"its base": 0, "a view of it": 1, "a view of the same base": 2, "the same memory": 3}
    rows.sort(key=lambda r: (order.get(r["relation"], 4), r["name"] is None, r["name"] or "", r["offset"]))
    return rows, names
