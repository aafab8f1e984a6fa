"""`look.record()`: what must be known beforehand, noted while operators run: inputs, module, figures, gradients."""
from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from functools import partial

import numpy as np

from ..autograd import modes
from ..autograd.gradients import fit
from ..autograd.hooks import RemovableHandle
from ..autograd.node import AccumulateGrad, endpoint
from ..backend import dtypes
from ..backend.device import is_array
from ..nn.hooks import register_module_forward_hook, register_module_forward_pre_hook
from ..tensor import Tensor
from .sample import sample
from .saved import saved_of

__all__ = ["Note", "Place", "note_of", "record"]

NOTES: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # node -> Note; goes with the node


class Place:
    """One call of a module: the call around it, its dotted name in the outermost module, its class."""

    __slots__ = ("parent", "name", "kind", "root")

    def __init__(self, parent, name, kind, root):
        self.parent, self.name, self.kind, self.root = parent, name, kind, root


class Note:
    """What was noted of one node. `arrived`: samples of the gradients of its outputs; `sent`: of its inputs."""

    __slots__ = ("inputs", "place", "outputs", "saved", "arrived", "sent", "by", "__weakref__")

    def __init__(self, inputs=(), place=None, outputs=(), saved=()):
        self.inputs, self.place, self.outputs, self.saved = inputs, place, outputs, saved
        self.arrived = self.sent = None
        self.by = None  # of a leaf, which many graphs share: weakly, the note of the operator that sent to it last


def note_of(node) -> Note | None:
    """What was recorded of a node, None where nothing was."""
    return NOTES.get(node)


class record:
    """Notes of every operator application what a view can only show if it was written down when it happened.

        with look.record():
            loss = model(x).sum()
            loss.backward()
        look.graph(loss).print()

    The user's line, the operands, the modules that were being called, norm, mean and range of each output and, in a
    backward inside the block, of each gradient. Only what is recorded for backward is noted: nothing under no_grad().
    All threads are noted while any block is open, as in anomaly mode; each has its own modules. Blocks nest: the notes
    are the same. The notes live as long as the graph; hooks are removed when the last block ends. Inside look.memory(),
    or around it, both are told of every operator.
    """

    _lock = threading.Lock()
    _open = 0
    _active: _Recorder | None = None
    memory: Callable | None = None  # the `note` of look.memory(), while one is open
    blocks = 0  # that were opened so far
    watchers: tuple = ()  # with operator(node, note, args, outs), gradients(note, sent, arrived), leaf(note, grads)

    def __enter__(self):
        with record._lock:
            record._open += 1
            record.blocks += 1
            if record._active is None:
                record._active = _Recorder()
                record._tell()
        return self

    def __exit__(self, *exc):
        with record._lock:
            record._open -= 1
            if record._open == 0:
                active, record._active = record._active, None
                record._tell()
                active.close()

    @staticmethod
    def remember(note) -> None:
        """Tell look.memory() of every operator, before an open block, None for no more; the caller has the lock."""
        record.memory = note
        record._tell()

    @staticmethod
    def _tell() -> None:
        active, memory = record._active, record.memory
        if active is None:
            modes.set_recorder(memory, lines=False)
        else:
            modes.set_recorder(active.note if memory is None else partial(_both, memory, active.note))

    @staticmethod
    def watch(watcher) -> None:
        """Tell `watcher` of everything that is noted while a block is open, until `unwatch`."""
        with record._lock:
            record.watchers += (watcher,)

    @staticmethod
    def unwatch(watcher) -> None:
        with record._lock:
            record.watchers = tuple(w for w in record.watchers if w is not watcher)


class _Modules(threading.local):
    """The modules that are being called in this thread, the innermost last."""

    def __init__(self):
        self.stack: list[tuple[object, Place]] = []


class _Recorder:
    def __init__(self):
        self._lock = threading.Lock()
        self._modules = _Modules()
        self._names: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # root -> {id of module: name}
        self._closed = False
        self._hooked: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # node -> handle
        self._handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]

    @property
    def open(self) -> bool:
        return not self._closed

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        with self._lock:  # another thread may be noting an operator
            self._closed = True
        for node, handle in list(self._hooked.items()):
            unhook(node, handle)

    # modules

    def _enter(self, module, args):
        stack = self._modules.stack
        parent = stack[-1][1] if stack else None
        root = parent.root() if parent is not None else None
        if root is None:
            root, parent = module, None
        name = self._name(root, module)
        stack.append((module, Place(parent, name, type(module).__name__, weakref.ref(root))))

    def _leave(self, module, args, output):
        stack = self._modules.stack
        if any(m is module for m, _ in stack):  # not where the block began inside this call
            while stack.pop()[0] is not module:
                pass

    def _name(self, root, module):
        """The dotted name in the outermost module; None for a module that is not part of it."""
        names = self._names.get(root)
        if names is None or id(module) not in names:  # modules may have been added since
            names = self._names[root] = {id(m): name for name, m in root.named_modules()}
        return names.get(id(module))

    # operators

    def note(self, node, args, outs):
        stack = self._modules.stack
        inputs = tuple([_given(a) for a in args])
        note = NOTES[node] = Note(inputs, stack[-1][1] if stack else None, tuple([sample(o) for o in outs]),
                                  saved_of(node))
        targets: list[tuple | None] = []
        leaves: list[Note | None] = []
        for edge in node.edges:
            leaves.append(None)
            if edge is None:
                targets.append(None)
                continue
            target, i = endpoint(edge)
            targets.append((target.shape, target.dtype) if target.metas is None else target.metas[i])
            if target.__class__ is AccumulateGrad:
                leaf = leaves[-1] = NOTES.get(target)
                if leaf is None:
                    leaf = leaves[-1] = NOTES[target] = Note()
                self._hook(target, target.register_prehook, partial(_at_leaf, leaf))
        kept = weakref.ref(node), id(node._saved)
        self._hook(node, node.register_hook, partial(_after_backward, note, kept, targets, leaves,
                                                     _Label(node.name())))
        for watcher in record.watchers:
            watcher.operator(node, note, args, outs)

    def _hook(self, node, register, function):
        with self._lock:
            if not self._closed and node not in self._hooked:
                self._hooked[node] = register(function)


def _given(a):
    """(dtype, shape) of a Tensor, or of an array, which rules may pass on; a few characters of anything else."""
    if isinstance(a, Tensor):
        a = a._array
    elif isinstance(a, np.generic):
        return repr(a.item())[:40]
    elif not is_array(a):
        return repr(a)[:40]
    return dtypes.of(a).name, a.shape


def _both(outer, inner, node, args, outs):
    outer(node, args, outs)
    inner(node, args, outs)


class _Label:
    """Stands for a node in `fit`'s errors: a hook that held its own node would be a reference cycle."""

    __slots__ = ("_name",)

    def __init__(self, name):
        self._name = name

    def name(self):
        return self._name


def _at_leaf(note, grads):
    note.arrived = tuple([None if g is None else sample(g._array) for g in grads])
    for watcher in record.watchers:
        watcher.leaf(note, grads)


def _after_backward(note, kept, targets, leaves, label, sent, arrived):
    node = kept[0]()
    if node is not None and id(node._saved) != kept[1]:  # after it was noted, its result was written into an operand
        note.saved = saved_of(node)
    note.arrived = tuple([None if g is None else sample(g._array) for g in arrived])
    fitted = [None if g is None or target is None else fit(g._array, *target, label, i)
              for i, (g, target) in enumerate(zip(sent, targets))]
    note.sent = tuple([None if array is None else sample(array) for array in fitted])
    for g, leaf in zip(sent, leaves):
        if leaf is not None and g is not None:
            leaf.by = weakref.ref(note)
    for watcher in record.watchers:
        watcher.gradients(note, fitted, arrived)


def unhook(node, handle: RemovableHandle) -> None:
    """Remove a hook, and the node's table of hooks if nothing else is in it."""
    handle.remove()
    hooks = node.hooks
    if hooks is not None and not (hooks.tensor or hooks.retain or hooks.pre or hooks.post):
        node.hooks = None
