"""What is there when a block begins: tensors, graphs, an optimizer's state."""
from __future__ import annotations

import gc
import tracemalloc
from itertools import compress

from ...autograd.node import AccumulateGrad, Node
from ...backend.device import is_array
from ...tensor import Tensor
from ..saved import kept_of
from ..terminal import shape_of
from .ledger import BUFFERS, GRADIENTS, INPUTS, LINE, OF, OPTIMIZER, PARAMETERS, SAVED, TENSORS, TEXT, USED
from .records import is_parameter

__all__ = ["state_of", "was_traced", "write_down"]


def write_down(watcher, model) -> None:
    """Write down every tensor and graph that is alive, whoever made it."""
    ledger = watcher.ledger

    def see(array, role, label, used=True):
        number = ledger.see(array, role, TEXT, ledger.text(label))
        watcher.there.add(id(array))
        if number >= 0:
            watcher.used.extend(bytes(max(0, number + 1 - len(watcher.used))))
            if used and not watcher.used[number]:
                watcher.used[number] = 1
                ledger.note(USED, number)

    if model is not None:
        for t in model.parameters():
            see(t._array, PARAMETERS, watcher.name_of(t))
        for t in model.buffers():
            see(t._array, BUFFERS, watcher.name_of(t))
    for optimizer in watcher.optimizers:
        for group in optimizer.param_groups:
            for p in group["params"]:
                see(p._array, PARAMETERS, watcher.name_of(p))
        for array, name in state_of(optimizer):
            see(array, OPTIMIZER, name)
    known = {id(p) for o in watcher.optimizers for g in o.param_groups for p in g["params"]} | set(watcher.names)
    tensors, nodes = alive()
    for t in tensors:
        watcher.there.update((id(t), id(t._version_)))
        if t._grad is not None:
            see(t._grad._array, GRADIENTS, watcher.name_of(t), id(t) in known)
    for t in tensors:
        if is_parameter(t) or id(t) in known:  # of a model that was not given
            see(t._array, PARAMETERS, watcher.name_of(t), False)
        else:
            see(t._array, INPUTS, f"{shape_of(t.dtype.name, t.shape)} made before", False)
    for node in nodes:
        if node.__class__ is AccumulateGrad:
            ledger.watch(node, ledger.text(node.name()), existed=True, end=True)
        elif hasattr(node, "trace"):  # others are in no graph
            number = ledger.watch(node, ledger.text(node.name()), existed=True)
            for value, _ in kept_of(node) or ():
                array = value._array if isinstance(value, Tensor) else value
                if is_array(array):
                    piece = ledger.see(array, TENSORS, OF, number)
                    if piece >= 0:
                        ledger.note(SAVED, number, piece)
            if node.trace is not None:
                ledger.note(LINE, number, len(watcher.lines), 0)
                watcher.lines.append(tuple(node.trace.frames[-1]))
    watcher.used.extend(bytes(ledger.made - len(watcher.used)))


def alive():
    """All tensors and all nodes. There may be millions of other things: no Python runs for each of them."""
    things = gc.get_objects()
    # by their types: isinstance asks a stranger's object for its __class__, and some answer with a warning
    kinds = set(map(type, things))
    tensors = {kind for kind in kinds if issubclass(kind, Tensor)}
    wanted = tensors | {kind for kind in kinds if issubclass(kind, Node)}
    found = list(compress(things, map(wanted.__contains__, map(type, things))))
    return ([t for t in found if type(t) in tensors and hasattr(t, "_array")],
            [n for n in found if type(n) not in tensors])


def state_of(optimizer):
    """(array, name of the state) of all that an optimizer holds and that is neither parameter nor gradient."""
    params = {id(p): p for g in optimizer.param_groups for p in g["params"]}
    skip = {id(p._array) for p in params.values()}
    skip |= {id(p._grad._array) for p in params.values() if p._grad is not None}
    roots = set()
    for p in params.values():
        roots |= {id(p._array), id(p._array.base)}

    def its_own(array):
        return id(array) not in skip and (array.base is None or id(array.base) not in roots)

    for entry in optimizer.state.values():
        for name, value in entry.items() if isinstance(entry, dict) else ():
            if isinstance(value, Tensor) and its_own(value._array):
                yield value._array, name
    seen, stack = set(params), [optimizer.__dict__]
    while stack:
        thing = stack.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if is_array(thing):
            if its_own(thing):
                yield thing, "scratch"
        elif isinstance(thing, Tensor):
            if its_own(thing._array):
                yield thing._array, "state"
        elif isinstance(thing, dict):  # from Python 3.13 on an object's own has no referents for gc
            stack.extend(thing.values())
        elif isinstance(thing, (list, tuple)) or type(thing).__module__.startswith("tinytorch_gpu.optim"):
            stack.extend(gc.get_referents(thing))


def was_traced(thing) -> bool:
    """Whether tracemalloc saw an object being made."""
    return tracemalloc.get_object_traceback(thing) is not None
