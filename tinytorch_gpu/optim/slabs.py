"""Flat state: moments and momentum of all parameters of one dtype in one buffer per name, a *slab*.

What users see in `optimizer.state` are views of the slabs, so a step can go over many parameters at once, by formula
(blocks.py) or by one kernel launch (lists.py); both work on the same slabs. Step counts lie where the parameters lie:
on a GPU the host never learns whether a step was skipped.
"""
from __future__ import annotations

from ..backend import dtypes
from ..backend import kernel_multi_tensor as multi
from ..backend.device import xp_of
from ..backend.kernel import kernels_enabled
from ..tensor import Tensor, make
from .blocks import Blocks
from .lists import Lists

__all__ = ["Slabs"]

PLANS = 8  # sets of parameters with gradients that are remembered


def _real_dtype(array):
    """The dtype that the update computes in: complex as pairs of real numbers, half types in float32."""
    return dtypes.accumulation(dtypes.of(array).to_real().np)


def _kind(param):
    array = param._array
    return param.device, array.dtype, array.shape


class _Slot:
    """Where one parameter's state lies in a slab."""

    __slots__ = ("param", "slab", "index", "start", "stop", "made_for", "arrays", "tensors", "step")

    def __init__(self, param, slab, index, start, stop):
        self.param, self.slab, self.index, self.start, self.stop = param, slab, index, start, stop
        self.made_for = _kind(param)
        self.step = slab.steps[index:index + 1].reshape(())
        self.arrays, self.tensors = {}, {}  # state name -> view of the slab, and the Tensor that shows it

    def shown(self, state):
        """Whether the user's state still is what this slot shows."""
        if not self.tensors:
            return True
        entry = state[self.param]
        return all([entry.get(name) is tensor and tensor._array is self.arrays[name]
                    for name, tensor in self.tensors.items()])


class _Slab:
    """One flat buffer per state name for parameters of one dtype and device, small parameters first."""

    def __init__(self, params, names):
        params = sorted(params, key=lambda p: p._array.size)
        first = params[0]._array
        xp, dtype = xp_of(first), _real_dtype(first)
        parts = 2 if first.dtype.kind == "c" else 1
        total = sum(p._array.size for p in params) * parts
        self.names, self.dtype = names, dtype
        self.buffers = {name: xp.zeros(total, dtype=dtype) for name in names}
        self.steps = xp.zeros(len(params), dtype=dtypes.float32.np)  # of steps that were not skipped
        self.slots = []
        start = 0
        for i, p in enumerate(params):
            array = p._array
            slot = _Slot(p, self, i, start, start + array.size * parts)
            start = slot.stop
            for name in names:
                piece = self.buffers[name][slot.start:slot.stop]
                if parts == 2:
                    piece = piece.view(array.dtype)
                slot.arrays[name] = piece.reshape(array.shape)
            self.slots.append(slot)


class Slabs:
    """The slabs of one optimizer and the plans made for the sets of parameters that had gradients."""

    def __init__(self, show_step):
        self.slots: dict[int, _Slot] = {}
        self.plans: dict[tuple, list] = {}
        self.show_step = show_step

    @staticmethod
    def dtype(param):
        """The dtype of a real parameter's state."""
        return dtypes.from_any(_real_dtype(param._array))

    def parts(self, params, names, state, master=False, kernel=True):
        """What one step over these parameters, which have gradients, is made of: `Lists` for the kernels where they
        fit, `Blocks` for the formula elsewhere. From the last such step's plan where it still holds.

        `names` of the state; `master` adds a float32 master for half parameters; `kernel` says whether there is one.
        """
        key = (names, master, kernel and kernels_enabled(), *map(id, params))
        plan = self.plans.get(key)
        if plan is None or not all([slot.shown(state) for part in plan for slot in part.slots]) or not all(
                [part.holds() for part in plan]):
            if len(self.plans) >= PLANS:
                self.plans.clear()
            plan = self.plans[key] = self._plan(params, names, state, master, kernel)
        return plan

    def _plan(self, params, names, state, master, kernel):
        wanted = {id(p): (*names, "master") if master and p._array.dtype in dtypes.HALF else names for p in params}
        missing = [p for p in params if not self._holds(p, wanted[id(p)], state)]
        for p in missing:
            if wanted[id(p)]:
                state[p]  # entries in the order of the parameters, whatever the order in the slab
        alike: dict = {}
        for p in missing:
            alike.setdefault((p.device, p._array.dtype), []).append(p)
        for group in alike.values():
            self._adopt(_Slab(group, wanted[id(group[0])]), state)
        lists: dict = {}
        blocks: dict = {}
        for p in params:
            slot = self.slots[id(p)]
            if kernel and multi.fits(p._array):
                lists.setdefault((p.device, p._array.dtype), []).append(slot)
            else:
                blocks.setdefault(id(slot.slab), []).append(slot)
        return [*map(Lists, lists.values()), *map(Blocks, blocks.values())]

    def _holds(self, p, names, state):
        """Whether the parameter's state still is what its slot shows, and the slot fits the parameter."""
        slot = self.slots.get(id(p))
        return (slot is not None and slot.param is p and slot.slab.names == names and slot.made_for == _kind(p)
                and slot.shown(state))

    def _adopt(self, slab, state):
        """Copy what state there is (loaded, or set by the user) into the slab and show its views instead."""
        for slot in slab.slots:
            param = slot.param
            self.slots[id(param)] = slot
            if "master" in slot.arrays:
                slot.arrays["master"][...] = param._array.astype(slab.dtype)
            entry = state[param] if slab.names else {}
            known = False
            for name, view in slot.arrays.items():
                held = entry.get(name)
                if held is None:
                    continue
                if tuple(held.shape) != view.shape:
                    raise RuntimeError(
                        f"[optim] state {name!r} has shape {tuple(held.shape)}, its parameter {view.shape}: "
                        "load the state of a model with the same parameters, in the same order"
                    )
                view[...] = held.detach().to(param.device)._array
                known = True
            if self.show_step:
                held = entry.get("step", 0.0)
                slot.step[...] = held.detach().to(param.device)._array if isinstance(held, Tensor) else held
                slot.arrays = {"step": slot.step, **slot.arrays}
            elif known:
                slot.step[...] = 1
            for name, array in slot.arrays.items():
                slot.tensors[name] = entry[name] = make(array)
