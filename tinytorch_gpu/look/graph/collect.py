"""The graph that produced a tensor, as plain data: operators in order, leaves, saved memory, what was recorded."""
from __future__ import annotations

import functools
import linecache
import os
from collections.abc import Mapping

from ...autograd.node import AccumulateGrad, Node, endpoint
from ...nn import Module
from ...tensor import Tensor
from ..recorder import note_of
from ..sample import fill
from ..saved import arrays_of, checkpoints_of, memory_of, saved_of
from ..terminal import count_of, size_of

__all__ = ["collect", "roots_of", "walk"]


def roots_of(what, tensors) -> list:
    """The edges of one Tensor or several. Raises: TypeError for others, ValueError where there is no graph."""
    several = tuple(tensors) if isinstance(tensors, (list, tuple)) else (tensors,)
    edges = []
    for t in several:
        if not isinstance(t, Tensor):
            raise TypeError(f"[{what}] expected a Tensor or a list of them, got {type(t).__name__}")
        if t.grad_fn is None:
            why = ("it is a leaf, nothing was computed from it yet: give what was computed, such as the loss"
                   if t.requires_grad else
                   "it was made under no_grad(), by detach(), or from tensors that require no gradient: compute it "
                   "with gradients enabled from a tensor with requires_grad=True")
            raise ValueError(f"[{what}] the tensor of shape {list(t.shape)} has no graph; {why}")
        edges.append(t._edge())
    if not edges:
        raise ValueError(f"[{what}] expected a Tensor, got an empty list")
    return edges


def walk(edges) -> tuple[list[Node], list[AccumulateGrad]]:
    """(operators in order of creation, leaves in order of first use) from which the edges can be reached."""
    seen, stack = set(), [endpoint(e)[0] for e in edges]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend([endpoint(e)[0] for e in node.edges if e is not None])
    operators = sorted((n for n in seen if n.__class__ is not AccumulateGrad), key=lambda n: n.order, reverse=True)
    leaves: dict[AccumulateGrad, None] = {}
    for node in operators:
        for edge in node.edges:
            if edge is not None and endpoint(edge)[0].__class__ is AccumulateGrad:
                leaves.setdefault(endpoint(edge)[0])
    return operators, list(leaves)


def collect(edges, model=None) -> dict:
    """The data of `look.graph`: "nodes" (operators 1, 2, ... and then leaves), "modules", "totals", "missing"."""
    operators, leaves = walk(edges)
    number = {node: i for i, node in enumerate([*operators, *leaves], 1)}
    notes = {node: note_of(node) for node in number}
    _read([n for n in notes.values() if n is not None])
    modules, place_of = _modules(operators, notes)
    names = _names(model, [n.place for n in notes.values() if n is not None and n.place is not None])
    memory = _Memory({memory_of(leaf.variable._array)[0] for leaf in leaves})
    nodes = [_operator(node, number, notes[node], place_of.get(node), memory) for node in operators]
    checkpoints = _checkpoints(operators, nodes, memory.parameters)
    own = {id(n) for n in notes.values() if n is not None}
    for i, leaf in enumerate(leaves, 1):
        note = notes[leaf]
        if note is not None and (note.by is None or id(note.by()) not in own):  # the backward was another graph's
            note = None
        nodes.append(_leaf(leaf, number, note, names.get(id(leaf.variable)), i))
    return {
        "view": "graph",
        "outputs": [{"node": number[endpoint(e)[0]], "output": endpoint(e)[1]} for e in edges],
        "nodes": nodes,
        "modules": modules,
        "totals": _totals(nodes, memory),
        "checkpoints": checkpoints,
        "missing": [*_in_checkpoints(checkpoints), *_missing(operators, notes, nodes)],
    }


def _read(notes) -> None:
    found = []
    for note in notes:
        found += [*note.outputs, *(note.arrived or ()), *(note.sent or ())]
    fill(found)


def _metas(node):
    return node.metas if node.metas is not None else ((node.shape, node.dtype),)


def _figures(samples, i):
    return samples[i].data if samples and i < len(samples) and samples[i] is not None else None


def _operator(node, number, note, module, memory) -> dict:
    outputs = []
    for i, (shape, dtype) in enumerate(_metas(node)):
        outputs.append({
            "shape": list(shape), "dtype": _dtype_name(dtype),
            "value": _figures(note.outputs if note else None, i),
            "gradient": _figures(note.arrived if note else None, i),
        })
    inputs = []
    for i, edge in enumerate(node.edges):
        given = note.inputs[i] if note and i < len(note.inputs) else None
        entry: dict = {"node": None, "output": None, "shape": None, "dtype": None, "literal": None}
        if edge is not None:
            target, output = endpoint(edge)
            shape, dtype = _metas(target)[output]
            entry.update(node=number[target], output=output, shape=list(shape), dtype=_dtype_name(dtype))
        elif isinstance(given, tuple):
            entry.update(dtype=given[0], shape=list(given[1]))
        elif given is not None:
            entry["literal"] = given
        entry["gradient"] = _figures(note.sent if note else None, i)
        inputs.append(entry)
    saved, new_bytes = memory.count(node, note)
    return {
        "id": number[node], "kind": "operator", "name": node.name(), "module": module, "line": _line(node),
        "inputs": inputs, "outputs": outputs, "saved": saved, "saved_bytes": new_bytes, "checkpoint": None,
    }


def _leaf(leaf, number, note, name, i) -> dict:
    array = leaf.variable._array
    grad = leaf.variable._grad
    return {
        "id": number[leaf], "kind": "leaf", "name": name or f"leaf {i}", "named": name is not None,
        "outputs": [{"shape": list(leaf.shape), "dtype": _dtype_name(leaf.dtype), "value": None,
                     "gradient": _figures(note.arrived if note else None, 0)}],
        "bytes": array.nbytes, "has_grad": grad is not None, "inputs": [],
    }


@functools.cache  # NumPy takes 5 us for a name
def _dtype_name(np_dtype) -> str:
    return np_dtype.name


class _Memory:
    """Counts each piece of saved memory once, where it is saved first."""

    def __init__(self, parameters):
        self.parameters, self.numbers = parameters, {}
        self.bytes = {"activation": 0, "input": 0, "constant": 0, "packed": 0, "parameter": 0}

    def count(self, node, note):
        """(entries, bytes that this node is the first to keep, parameters apart); (None, None) where freed."""
        kept = saved_of(node)
        if kept is None and note is not None:  # a backward has freed it
            kept = note.saved
        if kept is None:
            return None, None
        entries, total = [], 0
        for s in kept:
            what = self._what(node, s)
            first = s.memory not in self.numbers
            index = self.numbers.setdefault(s.memory, len(self.numbers))
            if first:
                self.bytes[what] += s.held
                total += s.held if what != "parameter" else 0
            entries.append({"what": what, "source": s.source, "shape": list(s.shape), "dtype": s.dtype,
                            "bytes": s.bytes, "memory": index, "memory_bytes": s.held, "counted": first})
        return entries, total

    def _what(self, node, s) -> str:
        if s.leaf or s.memory in self.parameters:
            return "parameter"
        if s.source.startswith("input") and node.edges[int(s.source[6:])] is None:
            return "input"
        return s.source if s.source in ("constant", "packed") else "activation"


def _checkpoints(operators, nodes, parameters) -> list[dict]:
    """The checkpointed calls: their operators, each marked with "checkpoint", the call's number, and the bytes that the
    call keeps to run again, parameters apart."""
    found: dict = {}
    for node, row in zip(operators, nodes):
        for frame in checkpoints_of(node):
            entry = found.setdefault(id(frame), {"frame": frame, "nodes": []})
            entry["nodes"].append(row["id"])
            row["checkpoint"] = list(found).index(id(frame))
    rows = []
    for entry in found.values():
        kept = dict(memory_of(a) for a in arrays_of(entry["frame"]))
        rows.append({"nodes": entry["nodes"], "bytes": sum(n for m, n in kept.items() if m not in parameters)})
    return rows


def _in_checkpoints(rows) -> list[str]:
    """What stands in checkpoints, in words."""
    if not rows:
        return []
    shown = [f"#{r['nodes'][0]} to #{r['nodes'][-1]}" if len(r["nodes"]) > 1 else f"#{r['nodes'][0]}" for r in rows]
    more = f" and {count_of(len(rows) - 4, 'more')}" if len(rows) > 4 else ""
    return [f"{count_of(len(rows), 'checkpoint')} ({', '.join(shown[:4])}{more}): what these operators save is "
            f"computed again in backward; {size_of(sum(r['bytes'] for r in rows))} of arguments are kept for it"]


def _line(node) -> dict | None:
    if node.trace is None:
        return None
    file, line, function = node.trace.frames[-1]
    return {"file": file, "number": line, "function": function, "source": linecache.getline(file, line).strip()}


def _modules(operators, notes):
    """(the calls of modules in order, {node: number of its innermost call})."""
    numbers, calls, place_of = {}, [], {}

    def number(place):
        chain = []
        while place is not None and id(place) not in numbers:
            chain.append(place)
            place = place.parent
        for p in reversed(chain):
            numbers[id(p)] = len(calls)
            calls.append({"id": len(calls), "parent": None if p.parent is None else numbers[id(p.parent)],
                          "name": p.name, "class": p.kind})

    for node in operators:
        place = notes[node].place if notes[node] is not None else None
        if place is not None:
            number(place)
            place_of[node] = numbers[id(place)]
    return calls, place_of


def _names(model, places) -> dict[int, str]:
    """{id of a leaf Tensor: name}, from what the user gave, else from the modules that were recorded."""
    names: dict[int, str] = {}

    def add(named):
        for name, t in named:
            names.setdefault(id(t), name)

    if isinstance(model, Module):
        add(model.named_parameters())
    elif isinstance(model, Mapping):
        for name, t in model.items():
            if not isinstance(t, Tensor):
                raise TypeError(f"[graph] expected a dictionary of names and Tensors, {name!r} is a "
                                f"{type(t).__name__}")
            if t.grad_fn is not None or not t.requires_grad:
                raise ValueError(f"[graph] {name!r} is no leaf: only tensors with requires_grad=True that were not "
                                 "computed have a name")
        add(model.items())
    elif model is not None:
        raise TypeError(f"[graph] expected a Module or a dictionary of names and Tensors, got {type(model).__name__}")
    for root in {id(p.root): p.root for p in places}.values():  # a dead weak reference has no hash
        module = root()
        if module is not None:
            add(module.named_parameters())
    return names


def _totals(nodes, memory) -> dict:
    operators = [n for n in nodes if n["kind"] == "operator"]
    leaves = [n for n in nodes if n["kind"] == "leaf"]
    unknown = sum(n["saved_bytes"] is None for n in operators)
    return {
        "operators": len(operators), "leaves": len(leaves), "leaf_bytes": sum(n["bytes"] for n in leaves),
        "saved_bytes": sum(n["saved_bytes"] or 0 for n in operators),
        "saved_by_kind": memory.bytes,  # parameters among them, which exist anyway
        "freed": unknown,
    }


def _missing(operators, notes, nodes) -> list[str]:
    """What the view cannot say, and how to get it."""
    found = []
    unnoted = sum(notes[n] is None for n in operators)
    count = len(operators)
    if unnoted:
        what = "lines, modules and norms" if any(n.trace is None for n in operators) else "modules and norms"
        part = "" if unnoted == count else f" of {unnoted} of {count} operators"
        found.append(f"{what}{part} are not known: run the forward inside `with look.record():`")
    elif not any(notes[n] is not None and notes[n].arrived for n in operators):
        found.append("gradient norms are not known: run backward() inside the same `with look.record():`")
    freed = sum(n.get("saved_bytes", 0) is None for n in nodes)
    if freed:
        found.append(f"what {freed} of {count} operators saved was freed by a backward: record the forward, or pass "
                     "retain_graph=True")
    if any(not n["named"] for n in nodes if n["kind"] == "leaf"):
        found.append("leaves without names: give the model, look.graph(loss, model), or a dictionary of names")
    return found


def short_file(path: str) -> str:
    """A path for a narrow column: relative where it lies below the current folder and is short, else its last part."""
    try:
        relative = os.path.relpath(path)
    except ValueError:  # another drive
        relative = os.pardir
    return os.path.basename(path) if relative.startswith(os.pardir) or len(relative) > 24 else relative
