"""What tells the memory ledger: operators as they are recorded, hooks on their nodes, modules, optimizer steps."""
from __future__ import annotations

import gc
import math
import sys
import weakref
from collections import Counter
from functools import partial

from ...autograd import engine, modes
from ...autograd.node import AccumulateGrad, Node, endpoint
from ...autograd.operands import HALF
from ...backend.device import device_of, is_array
from ...optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from ...tensor import Tensor
from ..measure import differs
from ..recorder import _Recorder, unhook
from ..saved import checkpointed, kept_of
from ..terminal import shape_of
from .ledger import Applied, Entry, Ledger, Piece, Pieces, own
from .records import Hook, is_parameter, put_table, records_of, size_of_trace, was_traced

__all__ = ["Watcher"]

_RUN = engine.run.__code__


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
        self._counted: dict[int, Applied] = {}  # what a graph keeps -> the first that counts it
        self._leaves: dict[int, tuple] = {}  # AccumulateGrad that has a hook -> (weakly it, its table, its handle)
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
        self._last()
        self.ledger.close()
        for handle in self._handles:
            handle.remove()
        self._unhook_all()
        self._fresh.clear()

    @own
    def _last(self):
        self.event("end", "end", lambda: None)

    def event(self, stage, what, act):
        """An event that `ledger.event` writes down; the caller is `own`."""
        self._line()

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
        """Look at what was not there yet when the last event was written: gradients, what was freed."""
        self.ledger.let_go()
        for number in [n for n, (ref, _, _) in self._leaves.items() if ref() is None]:
            del self._leaves[number]
        for leaf in self._fresh:
            if leaf.variable._grad is not None:
                self.ledger.becomes(leaf.variable._grad._array, "gradients", self.name_of(leaf.variable))
        self._fresh.clear()
        now = self.ledger.now
        for piece, before in self._unborn:
            piece.born, piece.roles = now, Pieces([Entry((now, *piece.roles[0][1:]))])
            self.ledger.all.append(piece)
            if before is not None:
                before.died = now - 1
        self._unborn.clear()
        for applied in self._freeing:  # its backward is through: freed, or kept by retain_graph=True for another one
            node = applied.ref()
            if node is not None and applied.released is None and kept_of(node) is None:
                applied.released = now
        self._freeing.clear()

    def _line(self):
        """The line of the last operator, which is not known yet when it is told."""
        if self._pending is None:
            return
        applied, self._pending = self._pending, None
        node = applied.ref()
        if node is not None and node.trace is not None:
            applied.line = node.trace.frames[-1]
            if self.ledger.meter.counts_objects and not modes.is_anomaly_enabled():  # it is there because of this view
                self.ledger.own += size_of_trace(node.trace)
                applied.extra = Entry((applied.extra, node.trace))

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
            if is_parameter(t) or id(t) in known:  # of a model that was not given
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

    @own
    def _before_step(self, optimizer, args, kwargs):
        def act():
            for group in optimizer.param_groups:
                for p in group["params"]:
                    self.ledger.becomes(p._array, "parameters", self.name_of(p))
                    if p._grad is not None:
                        self.ledger.becomes(p._grad._array, "gradients", self.name_of(p))

        self.event("optimizer", f"before {type(optimizer).__name__}.step", act)

    @own
    def _after_step(self, optimizer, args, kwargs):
        def act():
            for array, name in self._state_of(optimizer):
                piece = self.ledger.see(array, "optimizer", name)
                if piece is not None and piece.roles[-1][1] != "optimizer":
                    piece.roles.append(Entry((self.ledger.now, "optimizer", name)))

        self.event("optimizer", f"{type(optimizer).__name__}.step", act)

    # modules

    def _enter(self, module, args):
        self._called(self._again(), module, args)

    @own
    def _leave(self, module, args, output):
        super()._leave(module, args, output)

    @own
    def _called(self, again, module, args):
        super()._enter(module, args)
        place = self._modules.stack[-1][1]

        def act():
            given = [self.ledger.see(a._array, "inputs", f"argument of {place.kind}") for a in args
                     if isinstance(a, Tensor)]
            self.calls.append(Entry((place, Pieces([p for p in given if p is not None]))))

        self.event("backward" if again else "forward", f"call of {place.kind}", act)

    # operators

    def note(self, node, args, outs):
        self._operator(self._again(), node, args, outs)

    def _again(self):
        """Whether a backward is running: a checkpoint's second run, or one that is itself recorded. Asked before a call
        that is `own`, since it makes objects of the program's frames, which go with these."""
        return self._stage == "backward" and _in_backward()

    @own
    def _operator(self, again, node, args, outs):
        if self.ledger.closed:
            return
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
                    role = "parameters" if is_parameter(a) else "inputs"
                    label = self.name_of(a) if role == "parameters" else f"given to {name}"
                    takes.append(ledger.see(a._array, role, label))
            for o in outs:
                makes.append(ledger.see(o, "tensors", applied))
            for value, _ in kept_of(node) or ():
                array = value._array if isinstance(value, Tensor) else value
                if is_array(array):
                    keeps.append(self._saved(array, applied))
            applied.inputs, applied.outputs, applied.saved = (
                Pieces([p for p in found if p is not None]) for found in (takes, makes, keeps))
            self._checkpointed(node, applied)
            if ledger.meter.counts_objects:
                applied.records, applied.keeping = records_of(node, partial(self._count, applied), self._before)
            ledger.watch(node, applied)
            self._pending = applied
            with self._lock:
                if not self._closed:
                    self._hook(node, text, applied)
            return applied

        self.event("backward" if again else "forward", f"{text}, run in backward" if again else text, act)

    def _checkpointed(self, node, applied):
        """What the checkpoint that an operator stands in keeps to run it again."""
        for array in checkpointed(node):
            piece = self.ledger.see(array, "inputs", "given to a checkpoint")
            if piece is not None:
                piece.keepers.append(applied)

    def _count(self, applied, thing):
        """Whether another operator that is there has counted this object."""
        other = self._counted.get(id(thing))
        if other is not None and other.released is None and other.died is None:
            return True
        self._counted[id(thing)] = applied
        return False

    def _before(self, thing):
        return self.ledger.meter.started and not was_traced(thing)

    def _hook(self, node, text, applied):
        """Hooks on a node and on its leaves. Their tables are kept here: with the node they would go unmeasured."""
        put_table(node)
        applied.handles = Entry((node.register_prehook(Hook(self, "_arrives", text, id(node))),
                                 node.register_hook(Hook(self, "_sends", text, applied))))
        applied.extra = node.hooks
        for edge in node.edges:
            leaf = None if edge is None else endpoint(edge)[0]
            if leaf.__class__ is AccumulateGrad and not self._has_hook(leaf):
                ref = weakref.ref(leaf)
                put_table(leaf)
                handle = leaf.register_prehook(Hook(self, "_at_leaf", ref))
                self._leaves[id(leaf)] = Entry((ref, leaf.hooks, handle))

    def _has_hook(self, leaf):
        return id(leaf) in self._leaves and self._leaves[id(leaf)][0]() is leaf

    def _unhook_all(self):
        with self._lock:
            self._closed = True
        found = [(a.ref(), h) for a in self.ledger.applied for h in a.handles]
        for node, handle in (*found, *((ref(), handle) for ref, _, handle in self._leaves.values())):
            if node is not None:
                unhook(node, handle)
        for applied in self.ledger.applied:
            applied.extra, applied.handles = None, ()
        self._leaves.clear()

    # the backward

    @own
    def _arrives(self, name, number, grads):
        def act():
            self._met(number)
            for g in grads:
                if g is not None:
                    self.ledger.see(g._array, "flowing", f"arrives at {name}")

        self.event("backward", f"backward reaches {name}", act)

    @own
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

    @own
    def _at_leaf(self, leaf, _, grads):
        def act():
            found = leaf()
            self._met(id(found))
            for g in grads:
                if g is not None and found is not None:
                    self.ledger.see(g._array, "flowing", f"arrives at {self.name_of(found.variable)}")
            if found is not None:
                self._fresh.append(found)

        self.event("backward", "backward reaches a leaf", act)


def _in_backward() -> bool:
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code is _RUN:
            return True
        frame = frame.f_back
    return False
