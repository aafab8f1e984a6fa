"""What a view that trains the user's model must leave as it was: arrays, gradients, buffers, modes, random numbers."""
from __future__ import annotations

import random as python_random

import numpy as np

from ..backend import random
from ..nn import Module
from ..optim.gradients import in_order
from ..tensor import INFERENCE, Tensor

__all__ = ["kept"]


class kept:
    """A block in which a model may be trained, and after which it is bit for bit what it was.

        with kept(run, optimizer) as state:
            ...          # gradients are None here
            state.back() # as at the beginning of the block
            ...

    Kept are the parameters and buffers of the run's model, those of a loss that is a Module, the optimizer's
    parameters, and the batch: their arrays, contents and versions, `.grad` (the same object, put aside meanwhile),
    which tensors stand under which names, which modules train; and the random numbers of Python, NumPy and all devices
    that the tensors are on. An optimizer's state is not: step a copy of it. What else a module changes of itself is not
    known, such as a number that it counts.
    """

    def __init__(self, run, optimizer=None):
        self.modules = [m for top in (run.model, run.loss) if isinstance(top, Module) for m in top.modules()]
        found = {}
        for module in self.modules:
            for table in (module._parameters, module._buffers):
                found.update({id(t): t for t in table.values() if t is not None})
        for group in optimizer.param_groups if optimizer is not None else ():
            found.update({id(p): p for p in group["params"]})
        found.update({id(t): t for t in run.tensors()})
        self.tensors: list[Tensor] = list(found.values())
        self.devices = {"cpu", *(str(t.device) for t in self.tensors)}

    def __enter__(self):
        self._tables = [(table, dict(table)) for m in self.modules for table in (m._parameters, m._buffers)]
        self._training = [(m, m.training) for m in self.modules]
        self._tensors = [(t, t._array, t._array.copy(), _version(t), t._leaf, t._req) for t in self.tensors]
        self._grads = [(t, t._grad) for t in self.tensors]
        self._random = ({where: random.get_rng_state(where) for where in self.devices}, python_random.getstate(),
                        np.random.get_state())
        for t in self.tensors:
            t._grad = None
        return self

    def back(self) -> None:
        """All as at the beginning of the block, gradients None."""
        for table, before in self._tables:
            table.clear()
            table.update(before)
        for module, training in self._training:
            module.training = training
        for t, array, content, version, leaf, req in self._tensors:
            if getattr(array.flags, "writeable", True):  # an expanded one cannot have changed
                with in_order((array,), (content,)):
                    array[...] = content
            t._array, t._leaf, t._req, t._grad = array, leaf, req, None
            if t._version_ is not None and t._version_ is not INFERENCE:
                t._version_.value = version
        states, of_python, of_numpy = self._random
        for where, state in states.items():
            random.set_rng_state(state, where)
        python_random.setstate(of_python)
        np.random.set_state(of_numpy)

    def __exit__(self, *exc):
        self.back()
        for t, grad in self._grads:
            t._grad = grad
        self._tensors = self._grads = []


def _version(t) -> int:
    counter = t._version_
    return 0 if counter is None else counter.value
