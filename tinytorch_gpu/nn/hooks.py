"""Hooks around a module's forward and backward, and those of all modules."""
from __future__ import annotations

import warnings
from collections import OrderedDict

from ..autograd.hooks import RemovableHandle
from ..autograd.modes import is_grad_enabled
from ..autograd.operator import Operator
from ..tensor import Tensor

__all__ = [
    "register_module_forward_pre_hook", "register_module_forward_hook", "register_module_full_backward_pre_hook",
    "register_module_full_backward_hook", "register_module_parameter_registration_hook",
    "register_module_buffer_registration_hook", "register_module_module_registration_hook",
]

# hooks on every module: {id: hook}
forward_pre: OrderedDict = OrderedDict()
forward: OrderedDict = OrderedDict()
backward_pre: OrderedDict = OrderedDict()
backward: OrderedDict = OrderedDict()
registration = {"parameter": OrderedDict(), "buffer": OrderedDict(), "module": OrderedDict()}


class ForwardHook:
    """A forward hook or pre-hook and how it wants to be called."""

    __slots__ = ("function", "with_kwargs", "always_call")

    def __init__(self, function, with_kwargs=False, always_call=False):
        self.function, self.with_kwargs, self.always_call = function, with_kwargs, always_call

    def __call__(self, *args):
        return self.function(*args)


def add(table, hook, prepend=False) -> RemovableHandle:
    """Put a hook in a table; its handle takes it out."""
    handle = RemovableHandle(table)
    table[handle.id] = hook
    if prepend:
        table.move_to_end(handle.id, last=False)
    return handle


def register_module_forward_pre_hook(hook) -> RemovableHandle:
    """Call `hook(module, args)` before every module's forward; it may return new arguments."""
    return add(forward_pre, ForwardHook(hook))


def register_module_forward_hook(hook, *, with_kwargs=False, always_call=False) -> RemovableHandle:
    """Call `hook(module, args, output)` after every module's forward; it may return another output."""
    return add(forward, ForwardHook(hook, with_kwargs, always_call))


def register_module_full_backward_pre_hook(hook) -> RemovableHandle:
    """Call `hook(module, grad_output)` before every module's backward; it may return other gradients."""
    return add(backward_pre, hook)


def register_module_full_backward_hook(hook) -> RemovableHandle:
    """Call `hook(module, grad_input, grad_output)` after every module's backward; it may return other gradients."""
    return add(backward, hook)


def register_module_parameter_registration_hook(hook) -> RemovableHandle:
    """Call `hook(module, name, parameter)` when any module registers a parameter; it may return another."""
    return add(registration["parameter"], hook)


def register_module_buffer_registration_hook(hook) -> RemovableHandle:
    """Call `hook(module, name, buffer)` when any module registers a buffer; it may return another."""
    return add(registration["buffer"], hook)


def register_module_module_registration_hook(hook) -> RemovableHandle:
    """Call `hook(module, name, submodule)` when any module registers a submodule; it may return another."""
    return add(registration["module"], hook)


def registered(kind, module, name, value):
    """`value` after the registration hooks of its kind."""
    for hook in registration[kind].values():
        changed = hook(module, name, value)
        if changed is not None:
            value = changed
    return value


class _ModuleBoundary(Operator):
    """Identity: a node that sees all gradients of a module's inputs, or outputs, together."""

    __slots__ = ()
    materialize = False

    def forward(node, *arrays):
        return arrays

    def backward(node, *grads):
        return grads


def _pass(values):
    """(values with those that require gradients passed through one boundary, their places, the boundary)."""
    places = [i for i, v in enumerate(values) if isinstance(v, Tensor) and v.requires_grad]
    if not places or not is_grad_enabled():
        return values, None, None
    results = _ModuleBoundary.apply(*[values[i] for i in places])
    passed = list(values)
    for i, result in zip(places, results, strict=True):
        result._version_ = values[i]._counter()  # the same memory: changes of either are seen by both
        passed[i] = result
    # named tuples keep their class
    kind = type(values)
    return (tuple(passed) if kind is tuple else kind(*passed)), places, results[0].grad_fn


def _spread(places, values, size):
    out = [None] * size
    for i, value in zip(places, values, strict=True):
        out[i] = value
    return tuple(out)


class BackwardHooks:
    """The full backward hooks of one call of a module, between a boundary at its inputs and one at its outputs.

    An input that requires no gradient has None in grad_input (PyTorch makes zeros for floating tensors).
    """

    def __init__(self, module, hooks, pre_hooks):
        self.module, self.hooks, self.pre_hooks = module, hooks, pre_hooks
        self.grad_outputs = None

    def inputs(self, args):
        """The arguments, passed through the inputs' boundary."""
        self.n_inputs = len(args)
        args, self.input_places, node = _pass(args)
        if node is not None:
            node.register_hook(self._at_inputs)
        return args

    def outputs(self, result):
        """The result, passed through the outputs' boundary."""
        single = isinstance(result, Tensor)
        values = (result,) if single else result
        if not isinstance(values, tuple):
            warnings.warn(
                "For backward hooks to be called, module output should be a Tensor or a tuple of Tensors but received "
                f"{type(result)}",
                stacklevel=4,
            )
            return result
        self.n_outputs = len(values)
        values, self.output_places, node = _pass(values)
        if node is not None:
            node.register_prehook(self._at_outputs)
        return values[0] if single else values

    def _at_outputs(self, grads):
        grads = _spread(self.output_places, grads, self.n_outputs)
        for hook in self.pre_hooks:
            changed = hook(self.module, grads)
            if changed is not None:
                changed = changed if isinstance(changed, tuple) else (changed,)
                if len(changed) != len(grads):
                    raise RuntimeError(f"[{type(self.module).__name__}] Backward pre hook returned an invalid number "
                                       f"of grad_output, got {len(changed)}, but expected {len(grads)}")
                grads = changed
        if self.input_places is not None:
            self.grad_outputs = grads
        elif self.hooks:
            warnings.warn(
                "Full backward hook is firing when gradients are computed with respect to module outputs since no "
                "inputs require gradients.",
                stacklevel=4,
            )
            for hook in self.hooks:
                changed = hook(self.module, (None,) * self.n_inputs, grads)
                if changed is not None and not (isinstance(changed, tuple) and all(g is None for g in changed)):
                    raise RuntimeError(f"[{type(self.module).__name__}] Backward hook for Modules where no input "
                                       "requires gradient should always return None or None for all gradients.")
        return tuple(grads[i] for i in self.output_places)

    def _at_inputs(self, grads, _):
        if self.grad_outputs is None:  # gradients went to the inputs alone, not through the module
            return None
        grads = _spread(self.input_places, grads, self.n_inputs)
        for hook in self.hooks:
            changed = hook(self.module, grads, self.grad_outputs)
            if changed is not None:
                changed = changed if isinstance(changed, tuple) else (changed,)
                if len(changed) != len(grads):
                    raise RuntimeError(f"[{type(self.module).__name__}] Backward hook returned an invalid number of "
                                       f"grad_input, got {len(changed)}, but expected {len(grads)}")
                grads = changed
        self.grad_outputs = None
        return tuple(grads[i] for i in self.input_places)
