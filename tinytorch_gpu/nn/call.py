"""How a module is called: hooks before and after forward, full backward hooks. A base of Module."""
from __future__ import annotations

import warnings
from collections import OrderedDict

from . import hooks as every
from .hooks import BackwardHooks, ForwardHook, add

__all__ = ["Callable"]


class Callable:
    """The calling half of Module."""

    def _init_hooks(self):
        put = object.__setattr__
        put(self, "_forward_pre_hooks", OrderedDict())
        put(self, "_forward_hooks", OrderedDict())
        put(self, "_backward_pre_hooks", OrderedDict())
        put(self, "_backward_hooks", OrderedDict())

    def forward(self, *args, **kwargs):
        """What the module computes; subclasses define it."""
        raise NotImplementedError(f'[{type(self).__name__}] the module is missing the required "forward" function: '
                                  'define it')

    def register_forward_pre_hook(self, hook, *, prepend: bool = False, with_kwargs: bool = False):
        """Call `hook(module, args)` before forward; it may return new arguments.

        With `with_kwargs`, `hook(module, args, kwargs)`, which may return (args, kwargs).
        """
        return add(self._forward_pre_hooks, ForwardHook(hook, with_kwargs), prepend)

    def register_forward_hook(self, hook, *, prepend: bool = False, with_kwargs: bool = False,
                              always_call: bool = False):
        """Call `hook(module, args, output)` after forward; it may return another output.

        With `with_kwargs`, `hook(module, args, kwargs, output)`; with `always_call`, also when forward raised.
        """
        return add(self._forward_hooks, ForwardHook(hook, with_kwargs, always_call), prepend)

    def register_full_backward_pre_hook(self, hook, prepend: bool = False):
        """Call `hook(module, grad_output)` before backward; it may return other gradients of the outputs."""
        return add(self._backward_pre_hooks, hook, prepend)

    def register_full_backward_hook(self, hook, prepend: bool = False):
        """Call `hook(module, grad_input, grad_output)` after backward; it may return other gradients of the inputs."""
        return add(self._backward_hooks, hook, prepend)

    def __call__(self, *args, **kwargs):
        if not (self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks
                or every.forward or every.forward_pre or every.backward or every.backward_pre):
            return self.forward(*args, **kwargs)
        return self._call_hooked(args, kwargs)

    def _call_hooked(self, args, kwargs):
        result, called = None, set()
        after = {**every.forward, **self._forward_hooks}
        try:
            for hook in (*every.forward_pre.values(), *self._forward_pre_hooks.values()):
                args, kwargs = self._before(hook, args, kwargs)
            backward = (*every.backward.values(), *self._backward_hooks.values())
            backward_pre = (*every.backward_pre.values(), *self._backward_pre_hooks.values())
            boundary = BackwardHooks(self, backward, backward_pre) if backward or backward_pre else None
            if boundary is not None:
                args = boundary.inputs(args)
            result = self.forward(*args, **kwargs)
            for key, hook in after.items():
                called.add(key)
                changed = hook(self, args, kwargs, result) if hook.with_kwargs else hook(self, args, result)
                if changed is not None:
                    result = changed
            return result if boundary is None else boundary.outputs(result)
        except BaseException:  # a KeyboardInterrupt too
            for key, hook in after.items():
                if hook.always_call and key not in called:
                    self._after_failure(hook, args, kwargs, result)
            raise

    def _before(self, hook, args, kwargs):
        if hook.with_kwargs:
            changed = hook(self, args, kwargs)
            if changed is None:
                return args, kwargs
            if not (isinstance(changed, tuple) and len(changed) == 2):
                raise RuntimeError(
                    f"[{type(self).__name__}] forward pre-hook must return None or a tuple of (new_args, new_kwargs), "
                    f"but got {changed}."
                )
            return changed
        changed = hook(self, args)
        if changed is None:
            return args, kwargs
        return (changed if isinstance(changed, tuple) else (changed,)), kwargs

    def _after_failure(self, hook, args, kwargs, result):
        try:
            if hook.with_kwargs:
                hook(self, args, kwargs, result)
            else:
                hook(self, args, result)
        except Exception as e:  # the error of forward is the one to see
            warnings.warn(
                "module forward hook with ``always_call=True`` raised an exception that was silenced as another error "
                f"was raised in forward: {e}",
                stacklevel=4,
            )
