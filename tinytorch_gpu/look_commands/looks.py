"""What each view of `look` is told while a program runs, and the view that comes out."""
from __future__ import annotations

import difflib

from .. import look
from ..look.view import View
from ..nn import Module
from ..optim import Optimizer
from ..tensor import Tensor
from .script import Enough
from .subjects import Models, names_of

__all__ = ["LOOKS", "Look"]


class Look:
    """A view of a running program. `steps`: the training steps that it sees by default, None for to the end.

    `begin` and `end` stand around these; where the model is not known at the beginning (None), `found` names it when
    its first module is called. `before` and `after` stand around the backward pass that is looked at.
    """

    about = ""
    kind: type[View]
    steps: tuple[int, int | None] = (1, 1)
    needs = ""  # "loss", "model": what it cannot do without
    finds = True  # whether it uses the model, for which all objects are looked through once

    called: tuple | None = None  # the last outermost call of a module: it, its arguments, its keyword arguments

    def __init__(self, given):
        self.given = given
        self.view: View | None = None

    @staticmethod
    def options(parser) -> None:
        """Options of this view alone."""

    def begin(self, model: Module | None, optimizers: list[Optimizer]) -> None: ...

    def found(self, model: Module, optimizers: list[Optimizer]) -> None: ...

    def before(self, tensors: tuple[Tensor, ...], names: dict[str, Tensor]) -> None: ...

    def after(self, tensors: tuple[Tensor, ...], names: dict[str, Tensor]) -> None: ...

    def end(self) -> None: ...

    def over(self, names: dict[str, Tensor]) -> None:
        """The program has ended, without a backward pass; `names` are its variables' then."""


def leaves(names):
    """The names that a graph's leaves can have."""
    return {name: t for name, t in names.items() if t.requires_grad and t.grad_fn is None}


class Recorded(Look):
    """Inside look.record()."""

    needs = "loss"

    _record: look.record | None = None

    def begin(self, model, optimizers):
        self._record = look.record()
        self._record.__enter__()

    def end(self):
        if self._record is not None:
            record, self._record = self._record, None
            record.__exit__(None, None, None)


class Graph(Recorded):
    about = "the graph of a backward pass: operators, shapes, saved bytes, lines, values and gradients"
    kind = look.Graph

    @staticmethod
    def options(parser):
        parser.add_argument("--unfold", action="append", default=[], metavar="NAME",
                            help="show a module (layers.3), a class (Block) or a repeat whole; `all` shows everything")

    def after(self, tensors, names):
        unfold = True if "all" in self.given.unfold else tuple(self.given.unfold)
        self.view = look.graph(list(tensors), leaves(names), unfold)


class Trace(Recorded):
    about = "the chain rule of a backward pass, step by step, with numbers"
    kind = look.Trace

    def before(self, tensors, names):
        if len(tensors) > 1:
            raise ValueError(f"[look] this backward pass begins from {len(tensors)} tensors, trace shows one: choose "
                             "another with --step and --backward")
        self.end()  # whose hooks would be taken for the program's
        self.view = look.trace(tensors[0], leaves(names))


class Block(Look):
    """A context of look that is its own view."""

    context = None

    def open(self, context):
        self.context = context
        context.__enter__()

    def end(self):
        if self.context is not None:
            self.view, self.context = self.context, None
            self.view.__exit__(None, None, None)


def _steps_one_of(optimizer, ids) -> bool:
    return any(id(p) in ids for group in optimizer.param_groups for p in group["params"])


class Memory(Block):
    about = "every byte of training steps by owner, over time and at the peak, and what holds it"
    kind = look.Memory
    steps = (1, 2)  # the first one makes the optimizer's state, the second has all of it

    def begin(self, model, optimizers):
        if model is None:
            self.open(look.memory())
        else:
            self.found(model, optimizers)

    def found(self, model, optimizers):
        self.end()  # what was begun without names; nothing of the model has run yet
        own = {id(p) for p in model.parameters()}
        self.open(look.memory(model, [o for o in optimizers if _steps_one_of(o, own)]))


class Gradients(Block):
    about = "norms of gradients and updates over the training steps, dead units, vanishing, exploding"
    kind = look.Gradients
    steps = (1, None)
    needs = "model"

    @staticmethod
    def options(parser):
        parser.add_argument("--threshold", type=float, default=1e3, metavar="TIMES",
                            help="how many times the norm must fall or grow from the last layer to the first (1000)")

    def begin(self, model, optimizers):
        if model is not None:
            self.found(model, optimizers)

    def found(self, model, optimizers):
        self.open(look.gradients(model, threshold=self.given.threshold))


class Stopping(look.Nan):
    """Ends the program, also one that catches errors."""

    def _stop(self, event):
        try:
            super()._stop(event)
        except FloatingPointError:
            raise Enough from None


class Nan(Block):
    about = "the first operator, forward or backward, that makes NaN or an infinity; --stop ends the program there"
    kind = look.Nan
    steps = (1, None)
    finds = False

    def begin(self, model, optimizers):
        self.open(Stopping(True) if self.given.stop else look.nan())


class Profile(Block):
    about = "time by operator, module and kernel beside what the machine can do; FILE.trace.json is a timeline"
    kind = look.Profile
    steps = (1, None)
    finds = False

    def begin(self, model, optimizers):
        self.open(look.profile())


class Fusion(Recorded):
    about = "what could be fused in a forward: bytes and predicted times as it is and with this package's operators"
    kind = look.Fusion
    finds = False

    @staticmethod
    def options(parser):
        parser.add_argument("--measure", action="store_true",
                            help="run the model's forward again on its last batch, each finding as it is and fused, "
                                 "forward and backward; the program ends there")

    def before(self, tensors, names):
        if not self.given.measure:
            self.view = look.fusion(list(tensors))
            return
        if self.called is None:
            raise ValueError("[look] --measure runs the forward of the outermost Module again, and none was called: "
                             "leave it out, or put the computation into an nn.Module")
        module, args, kwargs = self.called
        self.end()
        self.view = look.fusion(lambda: module(*args, **kwargs), measure=True)
        raise Enough


class Step(Block):
    about = "training steps watched for the classic pitfalls: gradients that pile up, graphs that stay, clipping"
    kind = look.Step
    steps = (1, None)
    needs = "model"

    def begin(self, model, optimizers):
        if model is not None:
            self.found(model, optimizers)

    def found(self, model, optimizers):
        own = {id(p) for p in model.parameters()}
        several = [o for o in optimizers if _steps_one_of(o, own)]
        self.open(look.step(dict(model.items()) if isinstance(model, Models) else model,
                            names_of(several) or several if len(several) > 1 else several))


class OneTensor(Look):
    about = "a tensor as memory: layout, base, version, gradient, what its operator saved; by default the loss"
    kind = look.TensorView
    needs = "loss"

    @staticmethod
    def options(parser):
        parser.add_argument("--name", help="a variable that is there at the backward pass, at the end of a program "
                                           "without one, w or weights[0]; or a parameter of the model, layers.0.weight")

    def after(self, tensors, names):
        name = self.given.name
        if name is None:
            self.view = look.tensor(tensors[0])
            return
        if name not in names:
            near = difflib.get_close_matches(name, names, 3, 0.3) or list(names)[:6]
            when = "at that backward pass" if tensors else "when the program ended, which had no backward pass"
            raise ValueError(f"[look] no tensor {name!r} {when}: there are {', '.join(near) or 'none'}")
        self.view = look.tensor(names[name])

    def over(self, names):
        if self.given.name is not None:
            self.after((), names)


LOOKS: dict[str, type[Look]] = {
    "graph": Graph, "memory": Memory, "gradients": Gradients, "fusion": Fusion, "profile": Profile, "trace": Trace,
    "tensor": OneTensor, "nan": Nan, "step": Step,
}
