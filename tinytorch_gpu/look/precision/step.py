"""A train step in each precision, measured: bytes, seconds, losses, the scaler's scale."""
from __future__ import annotations

import copy
import functools

from ...amp import GradScaler, autocast
from ...backend import dtypes
from ...optim.flat import FlatOptimizer
from ...tensor import Tensor
from .. import measure
from ..saved import memory_of

__all__ = ["WAYS", "Way", "measured"]


class Way:
    """One precision: its name; the dtype of autocast, None for float32; whether the weights of two dimensions and more
    are in it themselves."""

    def __init__(self, name, dtype=None, weights=False):
        self.name, self.dtype, self.weights = name, dtype, weights


WAYS = (
    Way("float32"),
    Way("float16 autocast", dtypes.float16),
    Way("bfloat16 autocast", dtypes.bfloat16),
    Way("float16 weights", dtypes.float16, weights=True),
    Way("bfloat16 weights", dtypes.bfloat16, weights=True),
)


class Trainer:
    """The run's train step in one precision, with a copy of the optimizer; the model is the user's own."""

    def __init__(self, run, optimizer, way):
        device = run.device
        self.run, self.device = run, device
        self.cast = functools.partial(autocast, device.type, way.dtype or dtypes.float16, enabled=way.dtype is not None)
        self.scaler = GradScaler(device.type, enabled=way.dtype is dtypes.float16)
        self.parameters = list({id(p): p for g in optimizer.param_groups for p in g["params"]}.values())
        self.optimizer = copy.deepcopy(optimizer, {id(p): p for p in self.parameters})  # of the same parameters
        if way.weights:
            if not isinstance(optimizer, FlatOptimizer):
                raise NotImplementedError(f"{type(optimizer).__name__} keeps no float32 master weights")
            for group in self.optimizer.param_groups:
                group["master_weights"] = True
            for p in (*run.model.parameters(), *self.parameters):
                if p.dtype is dtypes.float32 and p.ndim > 1:  # vectors weigh little, and norms want theirs in float32
                    p.data = p.detach().to(way.dtype)

    def clear(self) -> None:
        """Gradients are None."""
        self.optimizer.zero_grad()
        for t in (*self.run.model.parameters(), *self.run.tensors()):
            t.grad = None

    def loss(self) -> Tensor:
        with dtypes.quiet(), self.cast():
            return self.run()

    def step(self) -> Tensor:
        """One train step; the loss before it, without its graph."""
        self.clear()
        loss = self.loss()
        with dtypes.quiet():  # an overflow is the scaler's matter
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()


def measured(run, optimizer, way, state, steps, repeats) -> dict:
    """What one precision takes and gives. Bytes are those of the step after `steps` others, when all state is there.

    "losses": before each step and after the last; "scales": of the loss, at the same moments; "overflows": the steps
    that the scaler skipped, from 1; "weights", "state": bytes of parameters and buffers and of the optimizer's state;
    "step": bytes above these at the worst moment of a step; "peak": all three; "seconds": of each timed step.
    "error": why it does not run, None where it does; only float32 must.
    """
    found: dict = {"name": way.name, "dtype": (way.dtype or dtypes.float32).name, "half_weights": way.weights,
                   "scaled": way.dtype is dtypes.float16, "error": None}
    state.back()
    try:
        trainer = Trainer(run, optimizer, way)
        found |= _trained(trainer, steps)
        trainer.clear()
        found["step"] = measure.peak(trainer.step, run.device)[1]
        trainer.clear()
        found |= {"weights": _bytes(t for t in (*run.model.parameters(), *run.model.buffers())),
                  "state": _bytes(t for s in trainer.optimizer.state.values() for t in s.values()
                                  if isinstance(t, Tensor))}
        found["peak"] = found["weights"] + found["state"] + found["step"]
        found["seconds"] = measure.seconds(trainer.step, run.device, repeats=repeats)
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as e:
        if way.dtype is None:
            raise
        found["error"] = f"{type(e).__name__}: {e}"  # a finding: this model does not train so
    finally:
        state.back()
    return found


def _trained(trainer, steps) -> dict:
    losses, scales, overflows = [], [], []
    for k in range(steps):
        scales.append(trainer.scaler.get_scale())
        losses.append(trainer.step())
        if trainer.scaler.get_scale() < scales[-1]:
            overflows.append(k + 1)
    scales.append(trainer.scaler.get_scale())
    losses.append(trainer.loss().detach())
    return {"losses": [float(t.item()) for t in losses], "scales": scales if trainer.scaler.is_enabled() else [],
            "overflows": overflows}


def _bytes(tensors) -> int:
    """Bytes of the memory that tensors lie in, each piece once."""
    return sum(dict(memory_of(t._array) for t in tensors).values())
