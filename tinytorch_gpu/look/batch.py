"""How a model and a batch are run by the views that run them themselves: one convention for all."""
from __future__ import annotations

import inspect

from ..backend.device import device as Device
from ..backend.device import resolve
from ..nn import Module
from ..tensor import Tensor

__all__ = ["Run", "run_of"]


def run_of(model, batch, loss=None, name: str = "run_of") -> Run:
    """A forward and its loss, to be called as often as needed.

    `batch`: what the model is called with: a Tensor is its argument, a tuple or list its arguments, a dictionary its
    keyword arguments. `loss(output, *arguments)` (of a dictionary: `loss(output, **arguments)`) makes one number of the
    output; targets that the model does not take stand in a closure, `lambda out, x: F.cross_entropy(out, y)`. Without
    it the output itself must be one number. `name` stands before the messages.

    Raises: TypeError for what is no Module, a loss that cannot be called and a batch of another kind, ValueError for an
    empty batch.
    """
    if not isinstance(model, Module):
        raise TypeError(f"[{name}] expected a Module, got {type(model).__name__}")
    if loss is not None and not callable(loss):
        raise TypeError(f"[{name}] loss must be a function of (output, *batch), got {type(loss).__name__}")
    args: tuple = ()
    kwargs: dict = {}
    if isinstance(batch, Tensor):
        args = (batch,)
    elif isinstance(batch, (tuple, list)):
        args = tuple(batch)
    elif isinstance(batch, dict):
        kwargs = dict(batch)
        odd = [key for key in kwargs if not isinstance(key, str)]
        if odd:
            raise TypeError(f"[{name}] a dictionary is the model's keyword arguments: its keys must be strings, got "
                            f"{odd[0]!r}")
    else:
        raise TypeError(f"[{name}] batch must be a Tensor, a tuple or a list of the model's arguments, or a dictionary "
                        f"of its keyword arguments, got {type(batch).__name__}")
    if not args and not kwargs:
        raise ValueError(f"[{name}] the batch is empty: give what the model is called with")
    if loss is not None:
        _accepts(loss, args, kwargs, name)
    return Run(model, args, kwargs, loss, name)


def _accepts(loss, args, kwargs, name) -> None:
    """Raises: TypeError for a loss that does not take the output and the batch."""
    try:
        signature = inspect.signature(loss)
    except ValueError:  # a builtin tells nothing
        return
    try:
        signature.bind(None, *args, **kwargs)
    except TypeError as e:
        given = ["output", *(f"argument {i}" for i in range(1, len(args) + 1)), *(f"{key}=" for key in kwargs)]
        raise TypeError(f"[{name}] loss is called with ({', '.join(given)}) of the batch, its signature is "
                        f"{signature} ({e}): where it needs the output alone, write lambda output, *batch: ..."
                        ) from None


class Run:
    """`run()` is the loss, `run.output()` what the model returns, `run.loss_of(output)` the loss of that."""

    def __init__(self, model, args, kwargs, loss, name):
        self.model, self.args, self.kwargs, self.loss, self.name = model, args, kwargs, loss, name

    def __call__(self) -> Tensor:
        return self.loss_of(self.output())

    def output(self):
        """What the model returns for the batch."""
        return self.model(*self.args, **self.kwargs)

    def loss_of(self, output) -> Tensor:
        """The loss, one number. Raises: TypeError and ValueError where it is not, or where it has no gradient."""
        said = "the loss" if self.loss is not None else "the output of the model"
        value = output if self.loss is None else self.loss(output, *self.args, **self.kwargs)
        how = "" if self.loss is not None else ": pass loss=, a function of (output, *batch) that returns one number"
        if not isinstance(value, Tensor):
            raise TypeError(f"[{self.name}] {said} must be a Tensor, got {type(value).__name__}{how}")
        if value.numel() != 1:
            raise ValueError(f"[{self.name}] {said} must be one number, got {value.dtype.name} of shape "
                             f"{tuple(value.shape)}{how}")
        if not value.requires_grad:
            raise ValueError(f"[{self.name}] {said} has no gradient: no parameter that requires one leads to it, or it "
                             "was made under no_grad(), with detach() or with item()")
        return value

    @property
    def device(self) -> Device:
        """Where the model's parameters are, else the batch's tensors."""
        for t in (*self.model.parameters(), *self.tensors()):
            return t.device
        return resolve()

    def tensors(self) -> list[Tensor]:
        """The tensors of the batch, those in lists, tuples and dictionaries too."""
        found, waiting = [], [*self.args, *self.kwargs.values()]
        while waiting:
            value = waiting.pop(0)
            if isinstance(value, Tensor):
                found.append(value)
            elif isinstance(value, (tuple, list)):
                waiting += value
            elif isinstance(value, dict):
                waiting += value.values()
        return found
