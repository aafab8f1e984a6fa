"""Who keeps a tensor alive: the chain of references from it to a name in a function, a module or an object."""
from __future__ import annotations

import gc
import inspect
import itertools
import os
import sys
import types
from pathlib import Path

from ...autograd.node import Node, endpoint
from ...tensor import Tensor
from ..graph.collect import short_file
from ..terminal import shape_of

__all__ = ["chain_of", "held", "names_in_frames", "visit_locals"]

DEPTH, WIDTH = 8, 400  # of a search: links of a chain, objects looked at on each
GRAPHS = 4  # that are explained, the largest first
_HERE = str(Path(__file__).absolute().parents[1]) + os.sep


def names_in_frames() -> dict[int, str]:
    """{id of an object: the local variable of a running function that names it}, of this thread's calls."""
    found: dict[int, str] = {}
    visit_locals(lambda name, value, where, file: found.setdefault(id(value), f"`{name}` in {where}"))
    return found


def visit_locals(visit) -> None:
    """Call `visit(name, value, where, file)` for the variables of all functions that run in this thread, the innermost
    first, those of look left out; `where`: "train(), train.py", `file`: its path."""
    frame = sys._getframe(1)
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_HERE):
            local = frame.f_code.co_flags & inspect.CO_OPTIMIZED
            # up to Python 3.12 f_locals of a function makes a dictionary that lives as long as the call and would keep
            # what it shows; one that the program itself asked for (locals()) was there before and stays as it is
            before = {id(o) for o in gc.get_referents(frame)} if local and sys.version_info < (3, 13) else None
            names = frame.f_locals
            where = f"{frame.f_code.co_name}()" if local else "the module"
            for name, value in list(names.items()):
                file = frame.f_code.co_filename
                visit(name, value, f"{where}, {short_file(file)}", file)
            value = None
            if before is not None and id(names) not in before:
                names.clear()
            del names
        frame = frame.f_back


def chain_of(target, names, skip=()) -> list[str] | None:
    """["`total` in train(), train.py", "list [3]", ...]: from a name down to the target; None where none was found."""
    skipped = {id(s) for s in skip}
    came: dict[int, object] = {id(target): None}  # id of an owner -> what it refers to, towards the target
    level = [target]
    for _ in range(DEPTH):
        for thing in level:
            if id(thing) in names:
                return _written(thing, came, names[id(thing)])
        following: list = []
        wanted = {id(thing) for thing in level}
        # in one pass over all objects
        for owner in itertools.chain(gc.get_referrers(*level), _frozen(wanted) if gc.get_freeze_count() else ()):
            if owner is level or owner is came or id(owner) in came or id(owner) in skipped:
                continue
            if issubclass(type(owner), types.FrameType) and owner.f_code.co_filename.startswith(_HERE):
                continue
            thing = next((t for t in gc.get_referents(owner) if id(t) in wanted), None)
            if thing is None:  # it has let go since
                continue
            if issubclass(type(owner), dict) and _is_module(owner):
                key = next((k for k, v in owner.items() if v is thing), "?")
                return _written(thing, came, f"`{key}` in the module {owner['__name__']}")
            came[id(owner)] = thing
            following.append(owner)
            if len(following) >= WIDTH:
                break
        if not following:
            return None
        level = following
    return None


def _frozen(wanted):
    """Owners among the variables of modules, and these modules: what gc.freeze() took aside has no known referrers."""
    for module in list(sys.modules.values()):
        space = getattr(module, "__dict__", None)
        if not isinstance(space, dict):
            continue
        values = list(space.values())
        if any(id(v) in wanted for v in values):
            yield space
        for value in values:
            if issubclass(type(value), (list, dict, set)) and any(id(v) in wanted for v in gc.get_referents(value)):
                yield value


def _is_module(space) -> bool:
    name = space.get("__name__")
    return isinstance(name, str) and getattr(sys.modules.get(name), "__dict__", None) is space


def _written(owner, came, first):
    parts, above = [first], None
    while (thing := came[id(owner)]) is not None:
        of_object = issubclass(type(owner), dict) and getattr(above, "__dict__", None) is owner
        parts.append(_attribute(owner, thing) if of_object else _link(owner, thing))
        above, owner = owner, thing
    return parts


def _attribute(space, thing) -> str:
    name = next((k for k, v in space.items() if v is thing), None)
    return f".{name}" if name is not None else "an attribute"


def _link(owner, thing) -> str:
    """How one object refers to another, in words."""
    if issubclass(type(owner), dict):
        key = next((k for k, v in owner.items() if v is thing), None)
        return f"[{key!r}]" if key is not None else "a dictionary"
    if issubclass(type(owner), (list, tuple)):
        index = next((i for i, v in enumerate(owner) if v is thing), None)
        return f"{type(owner).__name__} [{index}]"
    if issubclass(type(owner), Tensor):
        what = next((n for n in ("_node", "_grad", "_array", "_view") if getattr(owner, n, None) is thing), "")
        what = {"_node": "grad_fn", "_grad": ".grad", "_array": "its memory", "_view": "its base"}.get(what, "")
        return f"Tensor {shape_of(owner.dtype.name, owner.shape)}{', ' + what if what else ''}"
    if issubclass(type(owner), Node):
        return f"{owner.name()}"
    if issubclass(type(owner), types.CellType):
        return "a closure"
    if issubclass(type(owner), types.FrameType):
        return f"a call of {owner.f_code.co_name}()"
    space = getattr(owner, "__dict__", None)
    if space is None or space is thing:
        return f"a {type(owner).__name__}"
    return f"a {type(owner).__name__}, {_attribute(space, thing)}"  # without a dictionary of its own until now


def held(story) -> list[dict]:
    """The graphs that were made in the block and are still there, with the names that hold them, largest first."""
    applied = {}
    for a in story.applied:
        node = None if a.existed or a.end else a.node
        if node is not None:
            applied[node] = a
    inner = {endpoint(e)[0] for node in applied for e in node.edges if e is not None}
    found = []
    for root in [n for n in applied if n not in inner]:
        nodes, stack = set(), [root]
        while stack:
            node = stack.pop()
            if node in applied and node not in nodes:
                nodes.add(node)
                stack.extend([endpoint(e)[0] for e in node.edges if e is not None])
        saved = {id(p): p.bytes for n in nodes if applied[n].released is None for p in applied[n].saved
                 if p.died is None and p.roles[-1][1] not in ("parameters", "buffers") and not p.existed}
        found.append((root, {
            "operator": root.name(), "nodes": len(nodes),
            "passes": len({applied[n].run for n in nodes} - {None}),
            "bytes": sum(saved.values()) + sum(applied[n].records for n in nodes) + sum(
                applied[n].keeping for n in nodes if applied[n].released is None), "saved": sum(saved.values())}))
    stack = node = nodes = inner = applied = None
    found.sort(key=lambda f: (-f[1]["passes"], -f[1]["bytes"], -f[1]["nodes"]))
    names = names_in_frames() if found else {}
    rows = []
    for i, (root, row) in enumerate(found):
        row["holder"] = chain_of(root, names, (found, found[i])) if i < GRAPHS else None
        row["searched"] = i < GRAPHS
        rows.append(row)
    return rows
