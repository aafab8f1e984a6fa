"""What tells the memory ledger: operators as they are recorded, hooks on their nodes, modules, optimizer steps."""
from __future__ import annotations

import gc
import math
import sys
import weakref
from collections import Counter
from functools import partial

import numpy as np

from ...autograd import engine
from ...autograd.node import AccumulateGrad, Node, endpoint
from ...autograd.operands import HALF
from ...backend.device import device_of, is_array
from ...optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from ...tensor import Tensor, make
from ..measure import differs
from ..recorder import _Recorder, unhook
from ..saved import kept_of
from ..terminal import shape_of
from .ledger import Applied, Ledger, Piece

__all__ = ["Watcher"]

_RUN = engine.run.__code__
TENSOR = sys.getsizeof(make(np.zeros(())))


class Watcher(_Recorder):
    """A recorder that keeps no samples, whose temporaries would be measured; it tells a `Ledger` instead."""

    def __init__(self, device, model, optimizer):
        self.device, self.ledger = device, Ledger(device)
        self.optimizers = [] if optimizer is None else [optimizer]
        self.names = {} if model is None else {id(t): n for n, t in (*model.named_parameters(),
                                                                     *model.named_buffers())}
        self.elsewhere: Counter = Counter()  # operators by the device they ran on, where it is another one
        self.passes = 0  # backwards that are through
        self.calls: list[tuple] = []  # (place, pieces of its arguments)
        self._stage = "forward"
        self._pending = None  # the operator whose line is not known yet
        self._fresh: list[AccumulateGrad] = []  # leaves that are about to get a gradient
        self._freeing: list[Applied] = []
        self._meeting: dict[tuple, list] = {}  # (id of a node, output) -> [gradients sent there, piece of their sum]
        self._unborn: list[tuple] = []  # (sum that the engine is about to make, what it takes the place of)
        try:
            self._existing(model)
        except BaseException:
            self.ledger.close()
            raise
        super().__init__()
        self._handles += [register_optimizer_step_pre_hook(self._before_step),
                          register_optimizer_step_post_hook(self._after_step)]
        self.ledger.start()

    def close(self):
        self.event("end", "end", lambda: None)
        self.ledger.close()
        for handle in self._handles:
            handle.remove()
        self._unhook_all()
        self._fresh.clear()

    def event(self, stage, what, act):
        def all_of_it():
            self._settle()
            return act()

        if self._stage in ("backward", "optimizer") and stage == "forward":
            self.passes += 1
            for number, _ in list(self._meeting):  # of graphs that end where nobody looks
                self._met(number)
        if stage in ("forward", "backward", "optimizer"):
            self._stage = stage
        self.ledger.event(stage, what, all_of_it)

    def _settle(self):
        """Look at what was not there yet when the last event was written: lines, gradients, what was freed."""
        if self._pending is not None:
            applied, self._pending = self._pending, None
            node = applied.ref()
            if node is not None and node.trace is not None:
                applied.line = node.trace.frames[-1]
                trace = node.trace
                size = sum(map(sys.getsizeof, (trace, trace.frames, *trace.frames, trace.inputs, *trace.inputs)))
                self.ledger.own += size  # the line is there because somebody looks
                applied.own += size
        for leaf in self._fresh:
            if leaf.variable._grad is not None:
                self.ledger.becomes(leaf.variable._grad._array, "gradients", self.name_of(leaf.variable))
        self._fresh.clear()
        now = self.ledger.now
        for piece, before in self._unborn:
            piece.born, piece.roles = now, [(now, *piece.roles[0][1:])]
            self.ledger.all.append(piece)
            if before is not None:
                before.died = now - 1
        self._unborn.clear()
        for applied in self._freeing:  # its backward is through: freed, or kept by retain_graph=True for another one
            node = applied.ref()
            if node is not None and applied.released is None and kept_of(node) is None:
                applied.released = now
        self._freeing.clear()

    def name_of(self, tensor):
        """The dotted name of a parameter, its shape where it has none."""
        return self.names.get(id(tensor)) or "x".join(map(str, tensor.shape)) or "scalar"

    # what is there at the start

    def _existing(self, model):
        """Write down every tensor and graph that is alive, whoever made it."""
        def see(array, role, label, used=True):
            piece = self.ledger.see(array, role, label, existed=True)
            if piece is not None:
                piece.used |= used

        if model is not None:
            for t in model.parameters():
                see(t._array, "parameters", self.name_of(t))
            for t in model.buffers():
                see(t._array, "buffers", self.name_of(t))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for p in group["params"]:
                    see(p._array, "parameters", self.name_of(p))
            for array, name in self._state_of(optimizer):
                see(array, "optimizer", name)
        known = {id(p) for o in self.optimizers for g in o.param_groups for p in g["params"]} | set(self.names)
        things = gc.get_objects()
        # by its type: isinstance asks a stranger's object for its __class__, and some answer with a warning
        tensors = [t for t in things if issubclass(type(t), Tensor) and hasattr(t, "_array")]
        for t in tensors:
            if t._grad is not None:
                see(t._grad._array, "gradients", self.name_of(t), id(t) in known)
        for t in tensors:
            if _is_parameter(t):  # of a model that was not given
                see(t._array, "parameters", self.name_of(t), False)
            else:
                see(t._array, "inputs", f"{shape_of(t.dtype.name, t.shape)} made before", False)
        for node in things:
            if issubclass(type(node), Node) and node.__class__ is not AccumulateGrad and hasattr(node, "trace"):
                self._old(node)  # others are in no graph

    def _old(self, node):
        applied = Applied(node.name(), None, 0, existed=True)
        pieces = []
        for value, _ in kept_of(node) or ():
            array = value._array if isinstance(value, Tensor) else value
            if is_array(array):
                pieces.append(self._saved(array, applied))
        applied.saved = tuple([p for p in pieces if p is not None])
        if node.trace is not None:
            applied.line = node.trace.frames[-1]
        self.ledger.watch(node, applied)
        applied.records = records_of(node)

    def _saved(self, array, applied):
        piece = self.ledger.see(array, "tensors", applied.name, existed=applied.existed)
        if piece is not None:
            piece.savers.append(applied)
        return piece

    def _state_of(self, optimizer):
        """[(array, name of the state)] of all that an optimizer holds and that is neither parameter nor gradient."""
        params = {id(p): p for g in optimizer.param_groups for p in g["params"]}
        skip = {id(p._array) for p in params.values()}
        skip |= {id(p._grad._array) for p in params.values() if p._grad is not None}
        found = []
        for entry in optimizer.state.values():
            for name, value in entry.items() if isinstance(entry, dict) else ():
                if isinstance(value, Tensor):
                    found.append((value._array, name))
        seen, stack = set(params), [optimizer.__dict__]
        while stack:
            thing = stack.pop()
            if id(thing) in seen:
                continue
            seen.add(id(thing))
            if is_array(thing):
                if id(thing) not in skip:
                    found.append((thing, "scratch"))
            elif isinstance(thing, Tensor):
                found.append((thing._array, "state"))
            elif isinstance(thing, dict):  # from Python 3.13 on an object's own has no referents for gc
                stack.extend(thing.values())
            elif isinstance(thing, (list, tuple)) or type(thing).__module__.startswith("tinytorch_gpu.optim"):
                stack.extend(gc.get_referents(thing))
        roots = set()
        for p in params.values():
            roots |= {id(p._array), id(p._array.base)}
        return [(a, n) for a, n in found if id(a) not in skip and (a.base is None or id(a.base) not in roots)]

    # steps

    def _before_step(self, optimizer, args, kwargs):
        def act():
            for group in optimizer.param_groups:
                for p in group["params"]:
                    if p._grad is not None:
                        self.ledger.becomes(p._grad._array, "gradients", self.name_of(p))

        self.event("optimizer", f"before {type(optimizer).__name__}.step", act)

    def _after_step(self, optimizer, args, kwargs):
        def act():
            for array, name in self._state_of(optimizer):
                piece = self.ledger.see(array, "optimizer", name)
                if piece is not None and piece.roles[-1][1] != "optimizer":
                    piece.roles.append((self.ledger.now, "optimizer", name))

        self.event("optimizer", f"{type(optimizer).__name__}.step", act)

    # modules

    def _enter(self, module, args):
        super()._enter(module, args)
        place = self._modules.stack[-1][1]

        def act():
            given = [self.ledger.see(a._array, "inputs", f"argument of {place.kind}") for a in args
                     if isinstance(a, Tensor)]
            self.calls.append((place, [p for p in given if p is not None]))

        self.event("backward" if _in_backward() else "forward", f"call of {place.kind}", act)

    # operators

    def note(self, node, args, outs):
        stack = self._modules.stack
        place = stack[-1][1] if stack else None
        name = node.name()
        if differs(where := device_of(outs[0]), self.device):
            self.elsewhere[str(where)] += 1

        applied = Applied(name, place, 0)
        text = str(applied)

        def act():
            ledger = self.ledger
            applied.born = ledger.now
            takes, makes, keeps = [], [], []
            for a in args:
                if isinstance(a, Tensor):
                    role = "parameters" if _is_parameter(a) else "inputs"
                    label = self.name_of(a) if role == "parameters" else f"given to {name}"
                    takes.append(ledger.see(a._array, role, label))
            for o in outs:
                makes.append(ledger.see(o, "tensors", applied))
            for value, _ in kept_of(node) or ():
                array = value._array if isinstance(value, Tensor) else value
                if is_array(array):
                    keeps.append(self._saved(array, applied))
            applied.inputs, applied.outputs, applied.saved = (
                tuple([p for p in found if p is not None]) for found in (takes, makes, keeps))
            applied.records = records_of(node, outs)
            ledger.watch(node, applied)
            self._pending = applied
            before = ledger.meter.read()[0]
            self._hook(node, node.register_prehook, partial(self._arrives, text, id(node)))
            self._hook(node, node.register_hook, partial(self._sends, text, applied))
            for edge in node.edges:
                leaf = None if edge is None else endpoint(edge)[0]
                if leaf.__class__ is AccumulateGrad and leaf not in self._hooked:
                    applied.records += sys.getsizeof(leaf)
                    self._hook(leaf, leaf.register_prehook, partial(self._at_leaf, weakref.ref(leaf)))
            if ledger.meter.counts_objects:
                applied.own = max(0, ledger.meter.read()[0] - before)
            return applied

        again = _in_backward()  # a checkpoint's second run, or a backward that is itself recorded
        self.event("backward" if again else "forward", f"{text}, run in backward" if again else text, act)

    def _hook(self, node, register, function):
        with self._lock:
            if not self._closed:
                self._hooked.setdefault(node, []).append(register(function))

    def _unhook_all(self):
        with self._lock:
            self._closed = True
        for node, handles in list(self._hooked.items()):
            for handle in handles:
                unhook(node, handle)
        self._hooked.clear()

    # the backward

    def _arrives(self, name, number, grads):
        def act():
            self._met(number)
            for g in grads:
                if g is not None:
                    self.ledger.see(g._array, "flowing", f"arrives at {name}")

        self.event("backward", f"backward reaches {name}", act)

    def _sends(self, name, applied, sent, arrived):
        def act():
            applied.run = self.passes
            for g in arrived:  # a half type is widened for its rule
                if g is not None:
                    self.ledger.see(g._array, "flowing", f"arrives at {name}")
            node = applied.ref()
            for i, g in enumerate(sent):
                if g is None:
                    continue
                edge = node.edges[i] if node is not None and i < len(node.edges) else None
                leaf = None
                if edge is not None:
                    leaf = endpoint(edge)[0]
                    self._sent(*endpoint(edge), g._array)
                if leaf.__class__ is AccumulateGrad and leaf.shape == g.shape and leaf.dtype == g._array.dtype:
                    self.ledger.see(g._array, "gradients", self.name_of(leaf.variable))
                else:
                    self.ledger.see(g._array, "flowing", f"sent by {name}")
            self._freeing.append(applied)

        self.event("backward", f"backward of {name}", act)

    def _sent(self, node, output, array):
        """A gradient goes to a node. The engine fits it to shape and dtype and adds it to one that waits there; what
        comes of that is seen when the node runs."""
        shape, dtype = (node.shape, node.dtype) if node.metas is None else node.metas[output]
        entry = self._meeting.setdefault((id(node), output), [0, None])
        entry[0] += 1
        fitted = entry[0] == 1 and (array.shape != shape or array.dtype != dtype)
        if fitted or entry[0] == 2:
            itemsize = 4 if dtype in HALF and not fitted else dtype.itemsize  # sums of half types are kept in float32
            piece = Piece(math.prod(shape) * itemsize, 0, "flowing", f"{'cast' if fitted else 'sum'} for {node.name()}")
            self._unborn.append((piece, entry[1]))
            entry[1] = piece

    def _met(self, number):
        for key in [k for k in self._meeting if k[0] == number]:
            piece = self._meeting.pop(key)[1]
            if piece is not None:
                piece.died = self.ledger.now - 1  # here it is seen as what it is

    def _at_leaf(self, leaf, grads):
        def act():
            found = leaf()
            self._met(id(found))
            for g in grads:
                if g is not None and found is not None:
                    self.ledger.see(g._array, "flowing", f"arrives at {self.name_of(found.variable)}")
            if found is not None:
                self._fresh.append(found)

        self.event("backward", "backward reaches a leaf", act)


def _is_parameter(t) -> bool:
    return t._req and t._node is None and t.__class__ is not Tensor


def _in_backward() -> bool:
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code is _RUN:
            return True
        frame = frame.f_back
    return False


def records_of(node, tensors=()) -> int:
    """Bytes of a node, its edges, the lists of what it keeps, the ends of the graph that it has first, and the Tensors
    it made with the heads of their arrays, by sys.getsizeof."""
    lists = [node.edges, node.metas, *(getattr(node, n, None) for n in ("_saved", "_owners", "_versions", "_refs"))]
    total = sys.getsizeof(node) + sum([sys.getsizeof(v) for v in lists if isinstance(v, (tuple, list))])
    total += sum([sys.getsizeof(e) for e in node.edges if e.__class__ is tuple])
    for array in tensors:
        total += TENSOR + _head(array)
    for value, _ in kept_of(node) or ():
        if is_array(value) and not any(value is a for a in tensors):
            total += _head(value)
    return total


def _head(array) -> int:
    return type(array).__basicsize__ + 16 * array.ndim  # shape and strides
