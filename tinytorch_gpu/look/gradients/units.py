"""Units of rectifiers that never were positive: of nn.ReLU and nn.ReLU6, and of the functions in modules' forward."""
from __future__ import annotations

import linecache
import threading
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush

from ...autograd.anomaly import user_frames
from ...autograd.node import REGISTRY, AccumulateGrad, endpoint
from ...backend import dtypes
from ...nn import ReLU, ReLU6
from ...tensor import Tensor
from .. import spans

__all__ = ["Units", "named"]

# operator -> what it is called where it is never negative, and zero below zero; of what it was given
FUNCTIONS: dict = {
    REGISTRY["ReLU"]: lambda x: "relu",
    REGISTRY["Clamp"]: lambda x, low, high: _clamp(low, high),
    REGISTRY["Hardtanh"]: lambda x, low, high: None if low != 0 else "relu6" if high == 6 else "hardtanh",
    REGISTRY["BiasAct"]: lambda x, bias, curve: "bias_act" if curve == "relu" else None,
}
FAR = 100  # operators between a rectifier and the parameter before it


@dataclass(frozen=True)
class _Rectifier:
    """`name`: of a module, or of the module in whose forward the function `function` was called at `line`, after an
    operator that was given the parameter `after`."""

    name: str
    units: int
    function: str | None = None
    after: str | None = None
    line: tuple | None = None  # (file, number, function)


class _Last(threading.local):
    """The name of the parameter that an operator of this thread was given last."""

    parameter: str | None = None


class Units(spans.Listener):
    """`rows()` tells of every rectifier in a model's forward how many units there are, and how many were zero for all
    that went through while it was open. The last dimension counts as units, of images the channels."""

    def __init__(self, model):
        self._modules: dict[int, str] = {}  # id -> name
        for name, module in model.named_modules():
            self._modules.setdefault(id(module), name)
        self._own = [(name, m) for name, m in model.named_modules() if isinstance(m, (ReLU, ReLU6))]
        self._parameters = {id(p): name for name, p in model.named_parameters()}
        self._model = model  # the numbers above are of objects that it holds
        self._fired: dict[_Rectifier, object] = {}  # which units were positive once
        self._last = _Last()
        self._handles: list = []

    def open(self) -> None:
        self._handles = [module.register_forward_hook(partial(self._called, name)) for name, module in self._own]
        spans.listen(self)

    def close(self) -> None:
        spans.leave(self)
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def clear(self) -> None:
        self._fired.clear()

    def rows(self) -> list[dict]:
        """In the order of their first calls."""
        found = []
        for at, fired in self._fired.items():
            line = None if at.line is None else dict(zip(("file", "number", "function"), at.line)) | {
                "source": linecache.getline(*at.line[:2]).strip()}
            found.append({"name": at.name, "units": at.units, "dead": int(at.units - int(fired.sum())),
                          "function": at.function, "after": at.after, "line": line})
        return found

    # modules

    def _called(self, name, module, args, output) -> None:
        self._see(output, partial(_Rectifier, name))

    def _see(self, output, at) -> None:
        if not output.ndim or not output._array.size:  # no units, or no sample
            return
        axis = 1 if output.ndim > 3 else output.ndim - 1  # channels of an image, else the features
        positive = (output._array > 0).any(axis=tuple(d for d in range(output.ndim) if d != axis))
        key = at(output.shape[axis])
        self._fired[key] = positive if key not in self._fired else self._fired[key] | positive

    # functions

    def end(self, span, mark) -> None:
        if span.kind != "operator" or span.failed or span.module is None or not isinstance(span.result, Tensor):
            return
        for a in span.given:
            if id(a) in self._parameters:
                self._last.parameter = self._parameters[id(a)]
                break  # its first, as in a node's edges
        called = FUNCTIONS.get(span.what)
        function = None if called is None else called(*span.given, **span.params)
        if function is None or not dtypes.is_float(span.result._array.dtype):
            return
        around = span.module
        while around is not None and id(around.what) not in self._modules:
            around = around.module
        if around is None or isinstance(around.what, (ReLU, ReLU6)):  # called outside of the model, or seen by its hook
            return
        after = self._before(span.result._node) or self._last.parameter
        self._see(span.result, partial(_Rectifier, self._modules[id(around.what)], function=function, after=after,
                                       line=user_frames(innermost=True)[-1]))

    def _before(self, node) -> str | None:
        """The newest parameter that went into what a node computed. So each turn of a loop over layers has rectifiers
        of its own, and all steps of a recurrent network have the same."""
        heap = [] if node is None else [(node.order, node)]
        seen = {node}
        for _ in range(FAR):
            if not heap:
                break
            for edge in heappop(heap)[1].edges:
                target = None if edge is None else endpoint(edge)[0]
                if target.__class__ is AccumulateGrad:
                    if (name := self._parameters.get(id(target.variable))) is not None:
                        return name
                elif target is not None and target not in seen:
                    seen.add(target)
                    heappush(heap, (target.order, target))
        return None


def _clamp(low, high) -> str | None:
    zero = isinstance(low, (int, float)) and low == 0
    return "clamp" if zero and not (isinstance(high, (int, float)) and high <= 0) else None


def named(row) -> str:
    """How a row is called in a sentence."""
    if row["function"] is None:
        return row["name"]
    after = row["after"]
    if after is None:
        return f"{row['function']} in {row['name']}" if row["name"] else row["function"]
    owner, _, last = after.rpartition(".")
    return f"{row['function']} after {owner if owner and last in ('weight', 'bias') else after}"
