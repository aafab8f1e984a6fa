"""What tells the memory ledger: operators as they are recorded, the engine, modules, optimizer steps."""
from __future__ import annotations

import sys
from collections import Counter
from sys import getsizeof

import numpy as np

from ...autograd import anomaly, engine
from ...autograd.node import AccumulateGrad
from ...autograd.operator import Operator, _Packed
from ...backend.device import _by_class, device_of, is_array
from ...optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from ...tensor import Tensor
from ..measure import differs
from ..recorder import Place, _Recorder
from ..saved import checkpointed, kept_of, slots_of
from ..terminal import shape_of
from .backward import Backward
from .existing import state_of, was_traced, write_down
from .ledger import (
    AGAIN,
    ARGUMENT,
    BACKWARD,
    CALL,
    CALLED,
    COUNTED,
    END,
    FORWARD,
    FRAME,
    GIVEN,
    GIVEN_TO,
    GRADIENTS,
    GREW,
    INPUT,
    INPUTS,
    KEPT,
    LINE,
    OF,
    OPTIMIZER,
    OUTPUT,
    PARAMETERS,
    RUNS,
    SAID,
    SAVED,
    STEP,
    TENSORS,
    TEXT,
    USED,
    Ledger,
    own,
)
from .records import is_parameter, note_records

__all__ = ["Watcher"]

_RUN = engine.run.__code__


class _Call(Place):
    """A call of a module that has a number."""

    __slots__ = ("number",)


class Watcher(_Recorder):
    """A recorder that keeps no samples, whose temporaries would be measured; it tells a `Ledger` instead."""

    def __init__(self, device, model, optimizers):
        self.device, self.ledger = device, Ledger(device)
        self.optimizers = optimizers
        self.modules = {} if model is None else {id(m): n for n, m in model.named_modules()}
        self.names = {} if model is None else {id(t): n for n, t in (*model.named_parameters(),
                                                                     *model.named_buffers())}
        self.elsewhere: Counter = Counter()  # operators by the device they ran on, where it is another one
        self.places: list[_Call] = []
        self.lines: list = []  # code of the program, or (file, number, function) where that is known already
        self._line_of: dict[int, int] = {}  # id of a code -> its place in `lines`, -1 where it is this package's
        self._frame = 0  # the number of the program's function that was looked at last
        self.stage = FORWARD
        self._counting = 0  # the operator whose bytes are counted
        self._counts = self._counted
        self.there: set[int] = set()  # ids of what was there at the start
        self.used = bytearray()  # of the pieces that were there: whether they have to do with the block
        try:
            write_down(self, model)
        except BaseException:
            self.ledger.close()
            raise
        super().__init__()
        self._handles += [register_optimizer_step_pre_hook(self._before_step),
                          register_optimizer_step_post_hook(self._after_step)]
        self._backward = Backward(self)
        self.ledger.start()

    def close(self):
        self._last()
        self.ledger.close()
        self._backward.close()
        for handle in self._handles:
            handle.remove()
        self._closed = True

    @own
    def _last(self):
        self.ledger.event(END, SAID, self.ledger.text("end of the block"))

    def name_of(self, tensor):
        """The dotted name of a parameter, its shape where it has none."""
        return self.names.get(id(tensor)) or shape_of(tensor.dtype.name, tensor.shape)

    def see(self, array, role, kind, what):
        """The number of an array's piece, which is used here; -1 for another device's."""
        ledger = self.ledger
        number = ledger.see(array, role, kind, what)
        if 0 <= number < ledger.existing and not self.used[number]:
            self.used[number] = 1
            ledger.note(USED, number)
        return number

    def named(self, array, role, tensor):
        """From now on an array is a parameter, or its gradient."""
        self._becomes(array, role, self.name_of(tensor))

    def _becomes(self, array, role, words):
        self.see(array, role, TEXT, words := self.ledger.text(words))
        self.ledger.becomes(array, role, TEXT, words)

    # steps

    @own
    def _before_step(self, optimizer, args, kwargs):
        for group in optimizer.param_groups:
            for p in group["params"]:
                self.named(p._array, PARAMETERS, p)
                if p._grad is not None:
                    self.named(p._grad._array, GRADIENTS, p)
        self.stage = STEP
        self.ledger.event(STEP, SAID, self.ledger.text(f"before {type(optimizer).__name__}.step"))

    @own
    def _after_step(self, optimizer, args, kwargs):
        named = set()  # pieces: its first name, where the optimizer holds one several times
        for array, name in state_of(optimizer):
            words = self.ledger.text(name)
            number = self.see(array, OPTIMIZER, TEXT, words)
            if number not in named:
                named.add(number)
                self.ledger.becomes(array, OPTIMIZER, TEXT, words)
        self.stage = STEP
        self.ledger.event(STEP, SAID, self.ledger.text(f"{type(optimizer).__name__}.step"))

    # modules

    def _name(self, root, module):
        """In the model that was given; in the outermost module that is called where it is no part of that."""
        name = self.modules.get(id(module))
        return super()._name(root, module) if name is None else name

    def _enter(self, module, args):
        self._called(self._again(), module, args)

    @own
    def _called(self, again, module, args):
        known = len(self._names)
        super()._enter(module, args)
        ledger, stack = self.ledger, self._modules.stack
        found = stack[-1][1]
        call = _Call(found.parent, found.name, found.kind, found.root)
        call.number = ledger.number(len(self.places))
        stack[-1] = (module, call)
        self.places.append(call)
        ledger.took(getsizeof(call) + 8)  # and its place in the list
        if len(self._names) > known:
            names = self._names[module]
            ledger.took(getsizeof(names) + sum(getsizeof(k) + getsizeof(v) for k, v in names.items())
                        + 2 * getsizeof(call.root))
        ledger.note(CALL, call.number)
        for a in args:
            if isinstance(a, Tensor) and (piece := self.see(a._array, INPUTS, ARGUMENT, call.number)) >= 0:
                ledger.note(GIVEN, piece)
        self.stage = BACKWARD if again else FORWARD
        ledger.event(self.stage, CALLED, call.number)

    @own
    def _leave(self, module, args, output):
        super()._leave(module, args, output)

    # operators

    def note(self, node, args, outs):
        # outside of what is the ledger's own: it makes objects of the program's frames, which go with these
        code, instruction = self._where()
        self._operator(self._again(), node, args, outs, code, instruction)

    def _again(self) -> bool:
        """Whether a backward is running: a checkpoint's second run, a user's hook, or one that is itself recorded."""
        if self._backward.running:
            return True
        if self.stage != BACKWARD:
            return False
        frame = sys._getframe(2)
        while frame is not None and frame.f_code is not _RUN:
            frame = frame.f_back
        return frame is not None

    def _where(self):
        """The program's code that is running, by its place in `lines`, and the instruction in it."""
        frame = sys._getframe(3)  # of the operator
        known = self._line_of
        innermost = None
        while frame is not None:
            code = frame.f_code
            found = known.get(id(code))
            if found is None:
                found = self._meet(code)
            if found >= 0:
                if id(frame) != self._frame:
                    self._looked_at(frame)
                return found, frame.f_lasti
            innermost = innermost or (code, frame.f_lasti)
            frame = frame.f_back
        return self.lines.index(innermost[0]), innermost[1]  # nobody's but this package's

    def _looked_at(self, frame):
        """The interpreter makes an object of a running function for who looks at it: of the program's innermost one it
        stays until that returns."""
        with self.ledger.lock:
            self._frame = id(frame)
            if not self.ledger.closed:
                self.ledger.note(GREW, FRAME, getsizeof(frame))

    def _meet(self, code):
        with self.ledger.lock:
            lines, known = self.lines, self._line_of
            before = getsizeof(lines) + getsizeof(known)
            found = -1 if anomaly.is_package(code.co_filename) else len(lines)
            lines.append(code)  # either way: by then its id is not another code's
            key = id(code)
            known[key] = found
            if not self.ledger.closed:
                self.ledger.took(getsizeof(lines) + getsizeof(known) - before + getsizeof(key))
            return found

    @own
    def _operator(self, again, node, args, outs, code, instruction):
        ledger = self.ledger
        see, note = self.see, ledger.note
        stack = self._modules.stack
        if outs[0].__class__ is not np.ndarray or self.device.type != "cpu":
            where = device_of(outs[0])
            if differs(where, self.device):
                self.elsewhere[str(where)] += 1
        number = ledger.watch(node, ledger.text(node.name()), stack[-1][1].number if stack else -1)
        note(LINE, number, code, instruction)
        for a in args:
            if isinstance(a, Tensor):
                if is_parameter(a) and id(a._array) not in ledger.pieces:
                    piece = see(a._array, PARAMETERS, TEXT, ledger.text(self.name_of(a)))
                else:
                    piece = see(a._array, INPUTS, GIVEN_TO, number)
                if piece >= 0:
                    note(INPUT, number, piece)
        for array in outs:
            piece = see(array, TENSORS, OF, number)
            if piece >= 0:
                note(OUTPUT, number, piece)
        self._saved(node, number)
        if ledger.meter.counts_objects:
            self._records(node, number)
        self.stage = BACKWARD if again else FORWARD
        ledger.event(self.stage, AGAIN if again else RUNS, number)

    def _saved(self, node, number):
        """What a node keeps for backward."""
        if isinstance(node, Operator) and not slots_of(node.__class__) and not node.__class__.__dictoffset__:
            for value in node._saved or ():
                if value.__class__ in _by_class:
                    self._keeps(number, value)
                elif value.__class__ is _Packed:
                    break
            else:
                return
        for value, _ in kept_of(node) or ():
            array = value._array if isinstance(value, Tensor) else value
            if is_array(array):
                self._keeps(number, array)
        for array in checkpointed(node):  # what the checkpoint that it stands in keeps to run it again
            piece = self.see(array, INPUTS, TEXT, self.ledger.text("given to a checkpoint"))
            if piece >= 0:
                self.ledger.note(KEPT, number, piece)

    def _keeps(self, number, array):
        piece = self.see(array, TENSORS, OF, number)
        if piece >= 0:
            self.ledger.note(SAVED, number, piece)

    def _records(self, node, number):
        """Bytes of a node, and of ends of the graph that it is the first to have."""
        ledger = self.ledger
        self._counting = number
        note_records(node, number, self._counts, ledger.put)
        for edge in node.edges:
            leaf = edge[0] if edge.__class__ is tuple else edge
            if leaf.__class__ is AccumulateGrad and id(leaf) not in ledger.nodes:
                end = ledger.watch(leaf, ledger.text("AccumulateGrad"), end=True)
                note_records(leaf, end, self._counts, ledger.put)

    def _counted(self, thing):
        """Whether another operator that is there counts this, or it was there before; else this one counts it."""
        ledger, key = self.ledger, id(thing)
        if key in self.there and not (ledger.meter.started and was_traced(thing)):
            return True
        other = ledger.counted.get(key)
        if other is None:
            ledger.put(COUNTED)
            ledger.counted[key] = self._counting
            ledger.grew(2)
            return False
        if ledger.saving[other]:  # it is there, and so is the thing
            return True
        ledger.counted[key] = self._counting
        return False
