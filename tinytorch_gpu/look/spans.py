"""Begin and end of what runs, told to whoever listens: operators, backward nodes, modules, optimizer steps, kernels.

While somebody listens, the functions of the lower floors through which all of it goes stand inside wrappers; when the
last listener leaves, the very objects that were there before are back. So nothing is asked and nothing costs time when
nobody listens.
"""
from __future__ import annotations

import functools
import threading
import time
import weakref

from ..autograd import engine, operator
from ..autograd.function import Function
from ..autograd.operator import Operator
from ..backend.kernel import Kernel
from ..nn.call import Callable
from ..ops import registry
from ..optim.optimizer import Optimizer
from ..utils.checkpoint import _Frame
from .replaced import Replaced

__all__ = ["Listener", "Span", "leave", "listen", "residual", "spent"]

clock = time.perf_counter
EMPTY = "empty"  # the kind of spans that measure themselves


class Span:
    """One thing that runs, or has run.

    `kind`: "operator" (the application of an Operator or a Function, by a user or inside a rule), "inplace" (an
    operator whose result is written into a tensor), "pass" (a whole backward), "backward" (a node's rule, and adding
    up what it sends), "leaf" (AccumulateGrad), "module" (a call), "step" (of an optimizer), "kernel" (its launch),
    "again" (the second run of what a checkpoint holds, inside the "backward" of the node that asked for it first).
    `what`: the class, the node, the module, the optimizer, the kernel or the checkpointed call; `place`: (dotted name,
    class) of the innermost module that is being called, this one included. `given`, `params`, `result`: an operator's
    arguments and result, a kernel's arguments, until the end of the span.
    `start`, `stop`: of the clock, without the listeners' own work at this span; `spent`: seconds that listeners took
    within; `nested`: seconds of the spans within, without what listeners took.
    """

    __slots__ = ("kind", "what", "name", "place", "given", "params", "result", "failed", "parent", "module", "here",
                 "start", "stop", "nested", "spent", "before", "told")

    def __init__(self, kind, what, name, given, params):
        self.kind, self.what, self.name, self.given, self.params = kind, what, name, given, params
        self.result, self.failed, self.nested, self.spent = None, False, 0.0, 0.0

    @property
    def seconds(self) -> float:
        """From start to stop, without the listeners' work."""
        return self.stop - self.start - self.spent

    @property
    def own(self) -> float:
        """`seconds` without those of the spans within."""
        return self.seconds - self.nested


class Listener:
    """Base of those who listen. Both are called in the thread in which it happens, which must not change a thing."""

    def begin(self, span: Span):
        """Before it starts; what is returned comes back at its end."""

    def end(self, span: Span, mark) -> None:
        """After it stopped, also by an exception (`span.failed`). Called for whatever this listener saw begin."""


class _Here:
    """One thread: the innermost span that is open, the innermost one of a module, seconds that listening took."""

    __slots__ = ("top", "module", "spent")

    def __init__(self):
        self.top: Span | None = None
        self.module: Span | None = None
        self.spent = 0.0


class _Thread(threading.local):
    def __init__(self):  # once in each thread
        self.here = _Here()


_thread = _Thread()
_lock = threading.RLock()
_listeners: tuple[Listener, ...] = ()
_replaced = Replaced()
_places: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # module -> (root, weakly; dotted name in it)


def listen(listener: Listener) -> None:
    """Tell `listener` of every span in every thread from now on."""
    global _listeners
    with _lock:
        if not _listeners:
            try:
                _wrap()
            except BaseException:
                _replaced.put_back()
                raise
        _listeners += (listener,)


def leave(listener: Listener) -> None:
    """No more; a span that it saw begin in another thread still ends."""
    global _listeners
    with _lock:
        before, _listeners = _listeners, tuple([one for one in _listeners if one is not listener])
        if before and not _listeners:
            _replaced.put_back()
            _places.clear()


def spent() -> float:
    """Seconds that listening has taken in this thread so far."""
    return _thread.here.spent


def name_modules(root) -> None:
    """Modules are called by their names in `root` from now on, also where they are called on their own."""
    for name, module in root.named_modules():
        _places[module] = (weakref.ref(root), name)


# one span

def _begin(kind, what, name, given=None, params=None) -> Span:
    enter = clock()
    span = Span(kind, what, name, given, params)
    here = span.here = _thread.here
    outer = span.module = here.module
    span.parent = here.top
    if kind == "module":
        span.place = (_place(what, outer), name)
        here.module = span
    else:
        span.place = None if outer is None else outer.place
    here.top = span
    told = span.told = []
    try:
        for listener in _listeners if kind is not EMPTY else ():
            told.append((listener, listener.begin(span)))
    except BaseException:
        span.start = span.before = clock()
        _end(span, True)
        raise
    start = span.start = clock()
    span.before = start - enter
    return span


def _end(span, failed=False, result=None) -> None:
    stop = span.stop = clock()
    span.failed, span.result = failed, result
    try:
        for listener, mark in reversed(span.told):  # as they began, the last one first
            listener.end(span, mark)
    finally:
        span.given = span.params = span.result = None
        here = span.here
        parent = here.top = span.parent
        here.module = span.module
        cost = span.before + (clock() - stop)
        here.spent += cost
        if parent is not None:
            parent.nested += span.stop - span.start - span.spent
            parent.spent += span.spent + cost


def _place(module, outer) -> str | None:
    """The dotted name in the outermost module that is being called, None for what is no part of it; a part that is
    called on its own keeps the name that it has in a whole that was seen."""
    known = _places.get(module)
    if outer is None:
        root = module if known is None else known[0]()
    else:
        while outer.module is not None:
            outer = outer.module
        at = _places.get(outer.what)
        root = None if at is None else at[0]()
        if root is None:
            root = outer.what
    if known is None or known[0]() is not root:
        name_modules(module if root is None else root)  # modules may have been added since
        known = _places.get(module)
        if known is None or known[0]() is not root:
            known = _places[module] = (weakref.ref(root), None)
    return known[1]


def _inside(kind, what) -> bool:
    """Whether the innermost span is the same thing: super().apply(), a second attempt after a lack of memory."""
    top = _thread.here.top
    return top is not None and top.what is what and top.kind == kind


# the wrappers

def _application(original):
    function = original.__func__

    @functools.wraps(function)
    def apply(cls, *args, **params):
        if _inside("operator", cls):
            return function(cls, *args, **params)
        rule = params.get("rule")  # custom_vjp: its operator is called like the function
        span = _begin("operator", cls, getattr(rule, "__name__", None) or cls.__name__, args, params)
        try:
            result = function(cls, *args, **params)
        except BaseException:
            _end(span, True)
            raise
        _end(span, False, result)
        return result

    return classmethod(apply)


def _writing(original):
    @functools.wraps(original)
    def inplace(name, target, compute):
        span = _begin("inplace", target, name)
        try:
            result = original(name, target, compute)
        except BaseException:
            _end(span, True)
            raise
        _end(span)
        return result

    return inplace


def _pass(original):
    @functools.wraps(original)
    def run(roots, create_graph, keep_graph, targets=None, into_leaves=False):
        if _inside("pass", engine):
            return original(roots, create_graph, keep_graph, targets, into_leaves)
        span = _begin("pass", engine, "backward()")
        try:
            result = original(roots, create_graph, keep_graph, targets, into_leaves)
        except BaseException:
            _end(span, True)
            raise
        _end(span)
        return result

    return run


# the engine hands gradients over: a leaf owns one that nothing else holds, so these frames must not hold it either

def _node(original):
    @functools.wraps(original)
    def step(node, value, buffers, heap, create_graph, keep_graph, reaching):
        hand = [value]
        del value
        span = _begin("backward", node, node.name())
        try:
            original(node, hand.pop(), buffers, heap, create_graph, keep_graph, reaching)
        except BaseException:
            _end(span, True)
            raise
        _end(span)

    return step


def _leaf(original):
    @functools.wraps(original)
    def leaf(node, value, create_graph):
        hand = [value]
        del value
        span = _begin("leaf", node, node.name())
        try:
            original(node, hand.pop(), create_graph)
        except BaseException:
            _end(span, True)
            raise
        _end(span)

    return leaf


def _method(kind, name_of, keeps=False):
    def wrapping(original):
        @functools.wraps(original)
        def method(self, *args, **kwargs):
            if _inside(kind, self):
                return original(self, *args, **kwargs)
            span = _begin(kind, self, name_of(self), args if keeps else None)
            try:
                result = original(self, *args, **kwargs)
            except BaseException:
                _end(span, True)
                raise
            _end(span)
            return result

        return method

    return wrapping


def _class_name(thing) -> str:
    return type(thing).__name__


_module = _method("module", _class_name)
_step = _method("step", lambda optimizer: f"{type(optimizer).__name__}.step")
_again = _method("again", lambda frame: getattr(frame.function, "__name__", None) or _class_name(frame.function))
_launch = _method("kernel", lambda kernel: kernel.signature.name, keeps=True)


def _growing(original, method, wrapping):
    """`__init_subclass__` of a family: a class that is made while somebody listens is wrapped too."""
    function = original.__func__

    @functools.wraps(function)
    def __init_subclass__(cls, **kwargs):
        function(cls, **kwargs)
        with _lock:
            if _listeners and method in vars(cls):
                _replaced.replace(cls, method, wrapping)

    return classmethod(__init_subclass__)


def _family(cls):
    yield cls
    for one in type.__subclasses__(cls):
        yield from _family(one)


def _wrap() -> None:
    for base, method, wrapping in ((Operator, "apply", _application), (Function, "apply", _application),
                                   (Optimizer, "step", _step)):
        for cls in dict.fromkeys(_family(base)):
            if method in vars(cls):
                _replaced.replace(cls, method, wrapping)
            if "__init_subclass__" in vars(cls):
                _replaced.replace(cls, "__init_subclass__", lambda was, m=method, w=wrapping: _growing(was, m, w))
    _replaced.replace(operator, "inplace", _writing)
    _replaced.replace(registry, "write_inplace", _writing)
    _replaced.replace(engine, "run", _pass)
    _replaced.replace(engine, "_step", _node)
    _replaced.replace(engine, "_leaf", _leaf)
    _replaced.replace(Callable, "__call__", _module)
    _replaced.replace(Kernel, "__call__", _launch)
    _replaced.replace(_Frame, "_run_again", _again)


# what no clock inside a span can see

def residual(count: int = 500) -> float:
    """Seconds for each span that calling its wrapper takes beside what is measured of it: they stay in the time of what
    is around the span. Measured now, the best of five times `count` spans of nothing."""
    def nothing(self):
        return None

    wrapped = _method(EMPTY, _class_name)(nothing)
    thing, found = object(), []
    for _ in range(5):
        at = clock()
        for _ in range(count):
            nothing(thing)
        bare = clock() - at
        before, at = spent(), clock()
        for _ in range(count):
            wrapped(thing)
        found.append((clock() - at - (spent() - before) - bare) / count)
    return max(0.0, min(found))
