"""The course of a program that trains: which step it is in, told by its calls of modules, backward() and step()."""
from __future__ import annotations

import contextlib

from ..autograd.modes import is_grad_enabled
from ..look.backward_calls import BackwardCalls
from ..nn import hooks as modules
from ..optim import optimizer as optimizers
from .script import Enough
from .subjects import Made, loose_of, model_of, named_tensors

__all__ = ["Course"]


class Course:
    """Tells `look` when its steps begin and end, of the model, and of a backward pass.

    A training step ends with the first optimizer's `step()` after a backward pass, in a program without optimizers
    with the pass itself. `first` and `last` are the steps that are looked at (None: to the end), `which` the backward
    pass within each; with `stop` the program ends after the last one. What `look` raises is kept in `failure`: the
    program must not see it.
    """

    def __init__(self, look, first: int, last: int | None, which: int = 1, stop: bool = False):
        self.look, self.first, self.last, self.which, self.stop = look, first, last, which, stop
        self.step, self.passes, self.ended = 1, 0, 0  # this step, its backward passes, steps that are through
        self.all_passes = 0
        self.model = None
        self.failure: Exception | None = None
        self._watching = self._over = self._enough = False
        self._optimized: bool | None = None  # whether steps end with an optimizer's
        self._depth = 0  # of the module that is being called
        self._late: tuple | None = None  # a module that is being called, and hooks that it shall have after it
        self._running: list[tuple] = []  # steps that have begun: a closure calls the model inside one
        self._made = Made()
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        self._stack.enter_context(self._made)
        self._stack.enter_context(BackwardCalls(self._before, self._after))
        for handle in (modules.add(modules.forward_pre, modules.ForwardHook(self._called, with_kwargs=True)),
                       modules.register_module_forward_hook(self._left, always_call=True)):
            self._stack.callback(handle.remove)
        self._stack.callback(optimizers.register_optimizer_step_pre_hook(self._steps).remove)
        self._step_hook = optimizers.register_optimizer_step_post_hook(self._stepped)
        self._stack.callback(lambda: self._step_hook.remove())
        if self.first == 1:
            self._begin()
        return self

    def __exit__(self, *exc):
        self._end()
        self._stack.close()

    def where(self) -> str:
        """Where the program was ended."""
        return f"after step {self.ended}" if self._enough else f"in step {self.step}"

    # what is told

    def _called(self, module, args, kwargs) -> None:
        self._depth += 1
        if self._depth == 1 and is_grad_enabled():
            self.look.called = (module, args, kwargs)
        if self.look.finds and self.model is None and not self._over and is_grad_enabled():
            several = self._made.alive()
            self.model = model_of(module, several)
            if self._watching:
                tables = modules.forward_pre, modules.forward, module._forward_hooks
                known = [set(table) for table in tables]
                self._found(several)
                # this call has its hooks already: those that the look added take part in it from here
                pre, *after = ([(table, key) for key in table if key not in old] for table, old in zip(tables, known))
                self._late = (module, [*after[0], *after[1]])
                for table, key in pre:
                    table[key](module, args)

    def _found(self, several) -> None:
        def hooks():
            return [(*optimizers._pre_hooks.items(), *o._optimizer_step_pre_hooks.items()) for o, _, _ in self._running]

        known = [dict(table) for table in hooks()]
        self._tell("found", self.model, several)
        self._behind()
        for (optimizer, args, kwargs), table, old in zip(self._running, hooks(), known):  # they have begun without it
            for key, hook in table:
                if key not in old:
                    hook(optimizer, args, kwargs)

    def _left(self, module, args, output) -> None:
        self._depth -= 1
        if self._late is not None and self._late[0] is module:
            hooks, self._late = self._late[1], None
            for table, key in hooks:
                if key in table:
                    table[key](module, args, output)

    def _before(self, tensors, what) -> None:
        if self.look.needs == "model" and self.model is None and not self._over:
            several = self._made.alive()
            self.model = model_of(None, several)  # Modules of which only the parameters are used
            self.model = loose_of(several) if self.model is None else self.model
            if self.model is not None and self._watching:
                known = BackwardCalls._listeners
                self._found(several)
                for other in BackwardCalls._listeners:  # this pass is told to those that stood before it
                    if other not in known and other.before is not None:
                        other.before(tensors, what)
        self.passes += 1
        self.all_passes += 1
        self._pass("before", tensors)

    def _after(self, tensors, what) -> None:
        self._pass("after", tensors)
        if self._optimized is None:
            self._optimized = bool(self._made.alive())
        if not self._optimized:
            self._step_ends()

    def _pass(self, when, tensors) -> None:
        if self._watching and self.passes == self.which and self.look.needs == "loss":
            self._tell(when, tensors, named_tensors(self.model))

    def _steps(self, optimizer, args, kwargs) -> None:
        self._running.append((optimizer, args, kwargs))

    def _stepped(self, optimizer, args, kwargs) -> None:
        while self._running and self._running.pop()[0] is not optimizer:
            pass  # others raised
        self._optimized = True
        if self.passes:
            self._step_ends()

    # the steps

    def _behind(self) -> None:
        """What the look has hooked to optimizers comes first: it must have seen a step before that ends."""
        self._step_hook.remove()
        self._step_hook = optimizers.register_optimizer_step_post_hook(self._stepped)

    def _begin(self) -> None:
        self._watching = True
        self._tell("begin", self.model, self._made.alive())
        self._behind()

    def _step_ends(self) -> None:
        self.ended, self.passes = self.step, 0
        self.step += 1
        if self.ended == self.last:
            self._end()
        elif self.step == self.first:
            self._begin()
        if self._over and self.stop:
            self._enough = True
            raise Enough

    def _end(self) -> None:
        if self._watching:
            self._watching = False
            self._over = True
            self._tell("end")

    def _tell(self, what, *args) -> None:
        if self.failure is None or what == "end":  # what was opened is closed
            try:
                getattr(self.look, what)(*args)
            except Exception as e:
                self.failure = self.failure or e
