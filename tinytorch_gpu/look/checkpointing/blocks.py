"""The repeated blocks of a model: found, watched in one forward, and run in checkpoints for a while."""
from __future__ import annotations

from contextlib import contextmanager
from functools import partial

from ...nn import Module, ModuleDict, ModuleList, Sequential
from ...tensor import Tensor
from ...utils.checkpoint import checkpoint
from ..saved import memory_of

__all__ = ["Blocks", "called_in", "checkpointed", "example", "found_blocks", "given_blocks"]


class Blocks:
    """`units`: the blocks in the order of their calls, each a list of modules that follow one another; their `names`.

    `chained`: whether each module is called once and gets what the one before it returned, and the same other
    arguments, so that several blocks can share a checkpoint. `why`: why not, if not.
    """

    def __init__(self, units, names, where):
        self.units, self.names, self.where = units, names, where
        self.modules = [m for unit in units for m in unit]
        self.chained, self.why = False, ""

    def __len__(self):
        return len(self.units)


# found


def found_blocks(model) -> list[Blocks]:
    """The modules of each Sequential or ModuleList that repeat, alone or in groups: (Linear, ReLU), (Linear, ReLU), ...

    Alike are modules of one class with parameters of the same shapes, and so all inside. What lies in such a block is
    not looked at.
    """
    found: list[Blocks] = []
    inside: set[int] = set()
    for name, module in model.named_modules():
        if id(module) in inside or not isinstance(module, (Sequential, ModuleList)):
            continue
        children = list(dict(module.named_children()).items())
        start, length, count = _repeats([_alike(m) for _, m in children])
        if count < 2:
            continue
        groups = [children[start + i * length:start + (i + 1) * length] for i in range(count)]
        inside |= {id(m) for group in groups for _, block in group for m in block.modules()}
        prefix = f"{name}." if name else ""
        names = [prefix + (g[0][0] if length == 1 else f"{g[0][0]}-{g[-1][0]}") for g in groups]
        found.append(Blocks([[m for _, m in g] for g in groups], names, name or type(module).__name__))
    return found


def given_blocks(model, blocks) -> Blocks:
    """The blocks that a user names: a Sequential or ModuleList, or a list of modules.

    Raises: TypeError for what is none of these, ValueError for fewer than two and for modules of another model.
    """
    several = list(blocks.children()) if isinstance(blocks, (Sequential, ModuleList)) else blocks
    if not isinstance(several, (list, tuple)) or not all(isinstance(m, Module) for m in several):
        raise TypeError("[checkpointing] blocks must be a Sequential, a ModuleList or a list of modules, got "
                        f"{type(blocks).__name__}")
    if len(several) < 2 or len(set(map(id, several))) < len(several):
        raise ValueError(f"[checkpointing] blocks must be two different modules or more, got {len(several)}")
    names = {id(m): name for name, m in model.named_modules()}
    for m in several:
        if id(m) not in names:
            raise ValueError(f"[checkpointing] a {type(m).__name__} in blocks is no part of {type(model).__name__}")
    return Blocks([[m] for m in several], [names[id(m)] or type(m).__name__ for m in several], "blocks")


def example(model, called=None) -> str:
    """blocks=[model.a, model.b], the first two modules beside each other, by their places in the model, those with
    parameters first; `called`: ids of those that are."""
    name, module = "model", model
    while True:
        beside = [(n, m) for n, m in _beside(name, module) if called is None or id(m) in called]
        if len(beside) != 1:
            break
        name, module = beside[0]
    heavy = [n for n, m in beside if any(True for _ in m.parameters())]
    names = (heavy if len(heavy) > 1 else [n for n, _ in beside])[:2]
    return f"blocks=[{', '.join(names)}]" if names else "of which this model has none"


def _beside(name, module):
    """(place, module) of what is in a module; a list or dictionary of modules is not called itself."""
    for key, m in module.named_children():
        place = f"{name}[{key}]" if key.isdecimal() else f"{name}[{key!r}]" if isinstance(module, ModuleDict) \
            else f"{name}.{key}"
        if isinstance(m, (ModuleList, ModuleDict)):
            yield from _beside(place, m)
        else:
            yield place, m


def called_in(run) -> set[int]:
    """The ids of the modules that one forward calls."""
    found: set[int] = set()
    handles = [m.register_forward_pre_hook(lambda module, args: found.add(id(module))) for m in run.model.modules()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return found


def _alike(module):
    """Equal for modules of the same structure."""
    return (type(module).__qualname__, tuple((n, p.shape) for n, p in module._parameters.items() if p is not None),
            tuple((n, _alike(m)) for n, m in module.named_children()))


def _repeats(marks) -> tuple[int, int, int]:
    """(start, length, count) of the group of marks whose repetitions in a row cover most; of equals the shortest."""
    best = 0, 0, 0
    for length in range(1, len(marks) // 2 + 1):
        same = 0  # marks in a row that equal the one `length` before
        for i in range(length, len(marks)):
            same = same + 1 if marks[i] == marks[i - length] else 0
            count = same // length + 1
            if count > 1 and count * length > best[1] * best[2]:
                best = i + 1 - same - length, length, count
    return best


# watched


def watch(run, blocks) -> str:
    """Run one forward and see how the blocks are called: sets their order, `chained` and `why`. Returns the name of a
    block that is not called, "" where all are."""
    calls: list[tuple] = []
    handles = [m.register_forward_hook(lambda module, args, kwargs, out: calls.append((module, args, kwargs, out)),
                                       with_kwargs=True) for m in blocks.modules]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    first = {}
    for i, (module, *_) in enumerate(calls):
        first.setdefault(id(module), i)
    for unit, name in zip(blocks.units, blocks.names):
        if any(id(m) not in first for m in unit):
            return name
    order = sorted(range(len(blocks.units)), key=lambda i: first[id(blocks.units[i][0])])
    blocks.units, blocks.names = [blocks.units[i] for i in order], [blocks.names[i] for i in order]
    blocks.modules = [m for unit in blocks.units for m in unit]
    blocks.why = _not_chained(blocks.modules, calls)
    blocks.chained = not blocks.why
    return ""


def _not_chained(modules, calls) -> str:
    """Why several blocks cannot share a checkpoint; "" where they can."""
    if any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks for m in modules):
        return "a block has hooks of its own"
    if len(calls) != len(modules):
        return "a block is called several times"
    if [c[0] for c in calls] != modules:
        return "the blocks are not called in one order"
    for (_, args, kwargs, out), (_, args_after, kwargs_after, _) in zip(calls, calls[1:]):
        if not isinstance(out, Tensor) or not args_after or args_after[0] is not out:
            return "a block is not called with what the one before it returned"
        if not (_same(args[1:], args_after[1:]) and kwargs.keys() == kwargs_after.keys()
                and _same([*kwargs.values()], [kwargs_after[key] for key in kwargs])):
            return "the blocks are called with different further arguments"
    return ""


def _same(a, b) -> bool:
    simple = (int, float, str, bool, type(None))
    return len(a) == len(b) and all(
        x is y or (isinstance(x, simple) and isinstance(y, simple) and x == y)
        or (isinstance(x, Tensor) and isinstance(y, Tensor) and _same_view(x, y)) for x, y in zip(a, b))


def _same_view(a, b) -> bool:
    """Whether two constants are the same part of the same memory, as a mask that is sliced for each block."""
    if a.requires_grad or b.requires_grad or memory_of(a._array) != memory_of(b._array):
        return False
    return (a.dtype, a.shape, a.stride(), a.storage_offset()) == (b.dtype, b.shape, b.stride(), b.storage_offset())


# checkpointed


@contextmanager
def checkpointed(segments):
    """A block in which each segment, a list of modules that follow one another, runs in one checkpoint.

    The first module's forward runs all of the segment, the others' give back what they get. All are what they were
    afterwards.
    """
    before = [(m, m.__dict__.get("forward")) for segment in segments for m in segment]
    try:
        for first, *others in segments:
            parts = [m.forward for m in (first, *others)]
            object.__setattr__(first, "forward", partial(checkpoint, partial(_in_a_row, parts)))
            for m in others:
                object.__setattr__(m, "forward", _given)
        yield
    finally:
        for m, forward in before:
            if forward is None:
                m.__dict__.pop("forward", None)
            else:
                object.__setattr__(m, "forward", forward)


def _in_a_row(parts, x, *args, **kwargs):
    for part in parts:
        x = part(x, *args, **kwargs)
    return x


def _given(x, *args, **kwargs):
    return x
