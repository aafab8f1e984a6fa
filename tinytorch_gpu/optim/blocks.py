"""An update by formula: array passes over blocks of many parameters.

A block is a piece of one large parameter, used where it lies, or a run of small ones, gathered into scratch and written
back. A dozen ufuncs go over a block while it is in the cache. AdamW on 535,818 parameters: 0.68 ms in blocks of 32,768
elements, 1.18 ms in blocks of 4,096 (call overhead), and about 1.5 us a parameter and ufunc where each parameter is
updated by itself.
"""
from __future__ import annotations

import numpy as np

from ..backend import dtypes
from ..backend.device import backend_of, xp_of

__all__ = ["Blocks", "scalars"]

# Elements of a block. On the CPU four arrays of 128 KiB stay in a core's L2 cache; elsewhere a block only bounds
# the scratch memory (64 MiB in float32), since every block costs a round of kernel launches.
BLOCK = {"cpu": 1 << 15}
BLOCK_DEVICE = 1 << 24
DIRECT = 1 << 12  # smaller parameters are gathered: below this the call overhead exceeds two copies


def scalars(array, *values):
    """Numbers as the array's library multiplies by them fastest: 0-d arrays in NumPy (0.5 us less a call)."""
    if isinstance(array, np.ndarray):
        return tuple(np.array(v, dtype=array.dtype) for v in values)
    return values


def _flat(array):
    """A contiguous array as one axis of real numbers, sharing memory."""
    flat = array.reshape(-1)
    return flat.view(dtypes.of(array).to_real().np) if array.dtype.kind == "c" else flat


class _Block:
    """A stretch of a slab that is updated at once. `slots` has one entry if `direct`: a piece of that parameter."""

    __slots__ = ("slots", "first", "direct", "state", "master", "param", "inside", "size", "_owners")

    def __init__(self, slots, first, start, stop, direct):
        self.slots, self.first, self.direct, self.size = slots, first, direct, stop - start
        slab = slots[0].slab
        self.state = tuple(slab.buffers[name][start:stop] for name in slab.names if name != "master")
        self.master = slab.buffers["master"][start:stop] if "master" in slab.names else None
        self.inside = slice(start - slots[0].start, stop - slots[0].start)
        self.param = _flat(slots[0].param._array)[self.inside] if direct else None
        self._owners = None

    def spread(self, column, uniform):
        """One number per slot, as an operand beside the block: a number, or one for each element."""
        if uniform or len(self.slots) == 1:
            return column[self.first:self.first + 1].reshape(())
        if self._owners is None:
            owners = np.repeat(np.arange(self.first, self.first + len(self.slots)),
                               [slot.stop - slot.start for slot in self.slots])
            self._owners = backend_of(column).from_host(owners)
        return column[self._owners]

    def gather(self, arrays, scratch):
        """The values of one array per slot, one after the other, in `scratch`."""
        xp = xp_of(scratch)
        flat = [_flat(xp.ascontiguousarray(a)) for a in arrays]
        if len(flat) == 1:
            scratch[...] = flat[0]
        elif flat[0].dtype == scratch.dtype:
            xp.concatenate(flat, out=scratch)
        else:
            scratch[...] = xp.concatenate(flat)
        return scratch

    def scatter(self, scratch, arrays):
        """Write gathered values back."""
        base = self.slots[0].start
        for slot, array in zip(self.slots, arrays, strict=True):
            piece = scratch[slot.start - base:slot.stop - base]
            if array.dtype.kind == "c":
                piece = piece.view(dtypes.of(piece).to_complex().np)
            array[...] = piece.reshape(array.shape)


class Blocks:
    """Parameters of one slab, cut into blocks."""

    def __init__(self, slots):
        self.slots = slots = sorted(slots, key=lambda s: s.index)
        self.slab, self.dtype = slots[0].slab, slots[0].slab.dtype
        self.arrays = [s.param._array for s in slots]
        backend = backend_of(self.arrays[0])
        self.xp, self.on_host = backend.xp, backend.type == "cpu"
        first, last = slots[0].index, slots[-1].index
        # a slice where it can be: the count of all goes up in one call
        self.rows = slice(first, last + 1) if last - first + 1 == len(slots) else backend.from_host(
            np.array([s.index for s in slots]))
        self.blocks = self._cut(BLOCK.get(backend.type, BLOCK_DEVICE))
        size = max(b.size for b in self.blocks)
        gathered = max((b.size for b in self.blocks if not b.direct), default=0)
        self.scratch, self.spare = (self.xp.empty(size, dtype=self.dtype) for _ in range(2))
        self.params, self.grads = (self.xp.empty(gathered, dtype=self.dtype) for _ in range(2))

    def _cut(self, limit):
        blocks, run = [], []

        def flush():
            if run:
                slots = self.slots[run[0]:run[-1] + 1]
                blocks.append(_Block(slots, run[0], slots[0].start, slots[-1].stop, False))
                run.clear()

        for i, slot in enumerate(self.slots):
            array, size = slot.param._array, slot.stop - slot.start
            plain = array.flags.c_contiguous and dtypes.of(array).to_real().np == self.dtype
            if plain and size >= DIRECT:
                flush()
                pieces = -(-size // limit)
                edges = [slot.start + (size * k // pieces) // 16 * 16 for k in range(pieces)] + [slot.stop]
                blocks += [_Block([slot], i, a, b, True) for a, b in zip(edges[:-1], edges[1:], strict=True)]
            else:
                if run:
                    before = self.slots[run[-1]]
                    if before.stop != slot.start or slot.stop - self.slots[run[0]].start > limit:
                        flush()
                run.append(i)
        flush()
        return blocks

    def holds(self):
        """Whether the parameters still lie where they did."""
        return all([slot.param._array is array for slot, array in zip(self.slots, self.arrays, strict=True)])

    def advance(self, found=None):
        """Count a step of every parameter, unless `found`, and return the counts (slots,) in float64."""
        steps = self.slab.steps
        steps[self.rows] += 1 if found is None else 1 - found
        return steps[self.rows].astype(np.float64)

    def run(self, update, columns=(), numbers=(), scale=None, found=None):
        """Call `update(xp, param, grad, state, scratch, spare, *columns, *numbers)` on each block; it changes all but
        `grad`. `columns` are arrays of one number per slot, or None.

        Gradients are divided by `scale` in place, if there is one. A `found` that is not 0 leaves parameters and state
        with the bits that they have. Both are 0-d arrays and are not read by the host.
        """
        xp = self.xp
        columns = [c if c is None else c.astype(self.dtype) for c in columns]
        uniform = self.on_host and all([c is None or (c == c[0]).all() for c in columns])
        factor = None if scale is None else (1 / scale).astype(self.dtype)
        good = None if found is None else found == 0
        grads = [slot.param._grad._array for slot in self.slots]
        half = grads[0].dtype in dtypes.HALF
        if factor is not None and not half:
            for g in grads:
                xp.multiply(g, factor, out=g)
        last = flat_grad = None
        for block in self.blocks:
            n = block.size
            if n == 0:
                continue
            mine = grads[block.first:block.first + len(block.slots)]
            if block.direct:
                if block.first != last:
                    last, flat_grad = block.first, _flat(xp.ascontiguousarray(mine[0]))
                param, grad = block.param, flat_grad[block.inside]
            else:
                targets = [slot.param._array for slot in block.slots]
                param = block.gather(targets, self.params[:n])
                if block.master is not None:  # what others wrote into the parameter is the weight now
                    xp.copyto(block.master, param, where=block.master.astype(mine[0].dtype).astype(self.dtype) != param)
                    param = block.master
                grad = block.gather(mine, self.grads[:n])
                if factor is not None and half:  # in float32: half types lose what is small without the scale
                    xp.multiply(grad, factor, out=grad)
                    block.scatter(grad, mine)
            spread = [c if c is None else block.spread(c, uniform) for c in columns]
            kept = () if good is None else [a.copy() for a in (param, *block.state)]
            update(xp, param, grad, block.state, self.scratch[:n], self.spare[:n], *spread, *numbers)
            for array, old in zip((param, *block.state), kept):
                xp.copyto(array, old, where=~good)
            if not block.direct:
                block.scatter(param, targets)
        for slot in self.slots:
            slot.param._bump()
            if factor is not None:
                slot.param._grad._bump()
