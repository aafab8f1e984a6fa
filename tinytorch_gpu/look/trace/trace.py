"""`look.trace(loss)`: the chain rule step by step, with the numbers of this graph."""
from __future__ import annotations

import html

from ...autograd.node import endpoint
from ...autograd.operator import FREED, Operator, _Packed
from .. import page
from ..drawing import Drawing
from ..graph.collect import collect, roots_of, walk
from ..graph.flow import flow
from ..graph.graph import Graph
from ..sample import fill, sample, values_text
from ..terminal import Column, Paper, columns, count_of, figure, shape_of, table, with_notes, wrap
from ..view import View
from .rule import ATOM, expression, renamed, rule_of

__all__ = ["Trace", "trace"]

UNKNOWN = "constant"
SHOWN = 120  # operators of the text; all are in the data
ADDENDS = 8  # gradients that meet in one place, of those that are written out


def trace(loss, model=None, gradient=None) -> Trace:
    """The chain rule from `loss` to the leaves: local derivatives, gradients that arrive and go, where they are added.

    Call it before backward(), or after backward(retain_graph=True): it runs each rule by itself, changes no `.grad`,
    frees nothing and calls no hooks. `model` names the leaves, as in `look.graph`; `gradient`, a Tensor like `loss`, is
    where it begins if `loss` has several elements. Arrays of up to 16 elements are shown by their values, others by
    norm, mean and range; in `data` a complex value is [real, imaginary]. Formulas are read off the operators' own
    rules; `written` has the names of this graph where the rule's a, b, x or y is the name of another leaf.

    Raises: TypeError, ValueError as look.graph; RuntimeError for several elements without `gradient`, and for a graph
    that a backward has freed.
    """
    edges = roots_of("trace", loss)
    if len(edges) != 1 or isinstance(loss, (list, tuple)):
        raise TypeError("[trace] expected one Tensor: trace each loss by itself, or their sum")
    operators, leaves = walk(edges)
    for node in operators:
        if getattr(node, "_saved", None) is FREED or (hasattr(node, "ctx") and node.ctx._saved is None):
            raise RuntimeError(f"[trace] {node.name()} was freed by a backward: call look.trace(loss) before "
                               "backward(), or backward(retain_graph=True)")
    steps = flow(loss, gradient)
    data = collect(edges, model)
    number = {node: i for i, node in enumerate([*operators, *leaves], 1)}
    by_id = {n["id"]: n for n in data["nodes"]}
    fill([s for step in steps.values() for s in (*step.total, *step.sent)])
    fill([s for step in steps.values() for met in step.arrived for _, s in met])
    _values(loss, operators, leaves, number, by_id)
    rules: dict = {}
    found = []
    named = {by_id[number[leaf]]["name"] for leaf in leaves}
    for node, step in steps.items():
        found.append(_step(node, step, number, by_id, rules, named))
    forward = {str(number[n]): _forward(n, number, by_id) for n in operators}
    data["missing"] = _missing(operators, by_id, number, forward)
    return Trace({**data, "view": "trace", "forward": forward, "steps": found})


def _values(loss, operators, leaves, number, by_id) -> None:
    """Put the values that are still there into the nodes: of leaves, of the loss, of what is saved."""
    known: dict[tuple[int, int], object] = {}
    for leaf in leaves:
        known[number[leaf], 0] = leaf.variable._array
    for node in operators:
        if isinstance(node, Operator) and node._saved is not None:
            for value, ref in zip(node._saved, node._refs):
                if value is None or value.__class__ is _Packed or ref is None or not hasattr(value, "shape"):
                    continue
                if ref < 0:
                    known[number[node], -1 - ref] = value
                elif node.edges[ref] is not None:
                    source, i = endpoint(node.edges[ref])
                    known[number[source], i] = value
    node, i = endpoint(loss._edge())
    known[number[node], i] = loss._array
    samples = {}
    for (k, i), array in known.items():
        output = by_id[k]["outputs"][i]
        if output["value"] is None and tuple(output["shape"]) == array.shape:
            samples[k, i] = sample(array)
    fill(samples.values())
    for (k, i), s in samples.items():
        by_id[k]["outputs"][i]["value"] = s.data


def _step(node, step, number, by_id, rules, named) -> dict:
    """A step as data; also puts the gradients into the graph's node."""
    plain = by_id[number[node]]
    for i, total in enumerate(step.total):
        plain["outputs"][i]["gradient"] = None if total is None else total.data
    arrived = [[{"from": None if sender is None else number[sender], "gradient": s.data} for sender, s in met]
               for met in step.arrived]
    inputs = []
    if plain["kind"] == "operator":
        # one run of the rule for all nodes that are alike
        key = (type(node), node.shape, tuple(e is None for e in node.edges), tuple(
            None if s is None else (s["source"], *s["shape"]) for s in plain["saved"] or ()), _options(node))
        if key not in rules:
            rules[key] = rule_of(node)
        rule = rules[key]
        names = _own_names(rule, plain, _operands(node, number, by_id), named)
        for i, (entry, sent, local) in enumerate(zip(plain["inputs"], step.sent, step.local)):
            entry["gradient"] = None if sent is None else sent.data
            if sent is not None:
                written = rule.formulas[i]
                inputs.append({"input": rule.inputs[i], "node": entry["node"], "output": entry["output"],
                               "formula": rule.formulas[i], "written": written and renamed(written, names),
                               "derivative": local, "gradient": sent.data})
    return {"node": plain["id"], "name": plain["name"], "arrived": arrived,
            "gradient": [None if t is None else t.data for t in step.total], "inputs": inputs}


def _options(node) -> tuple:
    """The parameters that a node keeps beside its saved arrays, such as axes and exponents, and saved numbers."""
    numbers = [(i, repr(v)) for i, v in enumerate(getattr(node, "_saved", None) or ()) if not hasattr(v, "dtype")]
    found = list(getattr(node, "__dict__", {}).items())
    for cls in type(node).__mro__:
        if cls is Operator:
            break
        found += [(name, getattr(node, name, None)) for name in cls.__dict__.get("__slots__", ())]
    return (*numbers, *((name, repr(v)) for name, v in found if not hasattr(v, "dtype")))


def _forward(node, number, by_id) -> str:
    """What a node computes, in names: x + 2, #1 * #2, tanh(#3)."""
    operands = [(text, ATOM) for text in _operands(node, number, by_id) if text is not None]
    return expression(by_id[number[node]]["name"], operands, node)[0]


def _operands(node, number, by_id) -> list[str | None]:
    """What a node's inputs are called in this graph; None for an argument that is None."""
    return [None if e["literal"] == "None" else _name(e, by_id) if e["node"] is not None else _constant(node, i, e)
            for i, e in enumerate(by_id[number[node]]["inputs"])]


def _own_names(rule, plain, operands, leaves) -> dict[str, str]:
    """What to write for the names of a rule: nothing else, or the operands where a name would be read as a leaf's."""
    names = {name: text for name, text in zip(rule.inputs, operands) if text is not None}
    for i, (output, arriving) in enumerate(zip(rule.outputs, rule.arrives)):
        names[output] = f"#{plain['id']}" + (f".{i}" if i else "")
        if arriving in leaves:
            names[arriving] = f"grad({names[output]})"
    used = " ".join(f for f in rule.formulas if f)
    if any(name in leaves and text != name and renamed(used, {name: "?"}) != used for name, text in names.items()):
        return names
    return {}


def _constant(node, i, e) -> str:
    """A number or constant array as well as it is known: recorded, or saved."""
    if e["literal"] is not None:
        return e["literal"]
    if e["shape"] is not None:
        return shape_of(e["dtype"], e["shape"])
    for value, ref in zip(getattr(node, "_saved", None) or (), getattr(node, "_refs", None) or ()):
        if ref == i and isinstance(value, (int, float, complex)):
            return repr(value)
    return UNKNOWN


def _name(e, by_id) -> str:
    n = by_id[e["node"]]
    if n["kind"] == "leaf":
        return n["name"]
    return f"#{n['id']}" + (f".{e['output']}" if e["output"] else "")


def _missing(operators, by_id, number, forward) -> list[str]:
    found = []
    unknown = sum(any(o["value"] is None for o in by_id[number[n]]["outputs"]) for n in operators)
    if unknown:
        found.append(f"the values of {unknown} of {len(operators)} operators were not kept: run the forward inside "
                     "`with look.record():`")
    if any(n.hooks is not None and (n.hooks.tensor or n.hooks.pre or n.hooks.post) for n in operators):
        found.append("hooks on this graph may change gradients in backward(); they did not run here")
    if any(UNKNOWN in text for text in forward.values()):
        found.append(f"\"{UNKNOWN}\" is an operand that needs no gradient and was not kept: recorded, it has its value")
    return found


class Trace(View):
    """The view of `look.trace`. `data["steps"]` is the backward in order; `graph` the `Graph` with these gradients."""

    def __init__(self, data: dict):
        self.data = data
        keys = ("outputs", "nodes", "modules", "totals", "missing")
        self.graph = Graph({"view": "graph", **{k: data[k] for k in keys}})
        self.nodes = self.graph.nodes

    def __repr__(self):
        return (f"<look.trace: {count_of(self.data['totals']['operators'], 'operator')}, "
                f"{count_of(len(self._leaves()), 'leaf')}>")

    def _leaves(self):
        return [n for n in self.data["nodes"] if n["kind"] == "leaf"]

    # text

    def lines(self, paper: Paper) -> list[str]:
        lines = wrap(paper, self._title())
        short = self._is_long(paper)
        for head, rows in self._tables(paper, room=paper.width, short=short):
            body, _ = table(paper, head, rows)
            lines += ["", *body]
        return lines + with_notes(paper, self.data["missing"], ["mean and range of gradients"] if short else ())

    def _title(self) -> str:
        first = self.data["steps"][0]
        counts = f"{count_of(self.data['totals']['operators'], 'operator')}, {count_of(len(self._leaves()), 'leaf')}"
        return f"the chain rule of {first['name']}: {counts}; grad is what arrives, y the result, a, b, x the inputs"

    def _is_long(self, paper) -> bool:
        """Whether the columns are too few for the backward's table with all figures of large arrays."""
        head, rows = list(self._tables(paper))[1]
        wide = [max(columns(row[k]) for row in [[c.title for c in head], *rows]) for k in range(len(head))]
        return sum(wide) + 2 * (len(head) - 1) > paper.width and any(
            "values" not in i["gradient"] and i["gradient"]["mean"] is not None
            for step in self.data["steps"] for i in step["inputs"])

    def _tables(self, paper, limit=SHOWN, room=None, short=False):
        """(head, rows) of each; `room`: the columns that there are, where the end of a cell may be cut off; `short`:
        of large arrays that go back the norms alone."""
        head = [Column(f"forward {paper.down}", least=8), Column("computes", least=8), Column("value", least=8)]
        yield head, _middle([*([n["name"], "", self._value(n)] for n in self._leaves()),
                             *([f"#{n['id']} {n['name']}", self.data["forward"][str(n["id"])], self._value(n)]
                               for n in self.data["nodes"] if n["kind"] == "operator")], limit)
        head = [Column(f"backward {paper.up}", least=8), Column("grad", least=5), Column("", least=4),
                Column("rule", least=19), Column("local", keep=1, least=9), Column("sends", least=7)]
        yield head, _middle(self._backward(paper, short), limit)
        yield ([Column("leaf", least=6), Column("gradient", least=8)],
               _middle(self._sums(room, [
                   (self.nodes[s["node"]]["name"], s, 0) for s in sorted(self.data["steps"], key=lambda s: s["node"])
                   if self.nodes[s["node"]]["kind"] == "leaf"]), limit))
        shared = [(f"#{s['node']} {s['name']}", s, k) for s in self.data["steps"]
                  if self.nodes[s["node"]]["kind"] == "operator" for k, met in enumerate(s["arrived"]) if len(met) > 1]
        if shared:
            yield [Column("added at", least=6), Column("gradient", least=8)], _middle(self._sums(room, shared), limit)

    def _backward(self, paper, short) -> list[list[str]]:
        rows = []
        for step in self.data["steps"]:
            if not step["inputs"]:
                continue
            first, arrived = next((k, g) for k, g in enumerate(step["gradient"]) if g is not None)
            gradient = value_text(arrived, self._dtype(step["node"], first), short)
            for k, i in enumerate(step["inputs"]):
                rows.append(["" if k else f"#{step['node']} {step['name']}", "" if k else gradient,
                             f"{paper.to} {_name(i, self.nodes)}", _rule_text(i), derivative_text(i["derivative"]),
                             value_text(i["gradient"], self._dtype(i["node"], i["output"]), short)])
        return rows

    def _dtype(self, node, output) -> str:
        return self.nodes[node]["outputs"][output]["dtype"]

    def _value(self, n) -> str:
        return value_text(n["outputs"][0]["value"], n["outputs"][0]["dtype"])

    def _sums(self, room, several) -> list[list[str]]:
        """[name, its gradient] of each (name, step, output)."""
        left = None if room is None else room - 2 - max([columns(name) for name, _, _ in several], default=0)
        return [[name, self._added(step, output, left)] for name, step, output in several]

    def _added(self, step, output, room=None) -> str:
        """1 (#1) + 5 (#2) = 6; 6 = 1 (#1) + 5 (#2) where there is no room for it, so that the sum is not cut off."""
        dtype, met = self._dtype(step["node"], output), step["arrived"][output]
        shown = met if len(met) <= ADDENDS + 1 else met[:ADDENDS]
        text = " + ".join([
            f"{value_text(m['gradient'], dtype)} ({'start' if m['from'] is None else '#' + str(m['from'])})"
            for m in shown] + ([f"{len(met) - len(shown):,} more"] if len(met) > len(shown) else []))
        if len(met) == 1:
            return text
        total = value_text(step["gradient"][output], dtype)
        return f"{total} = {text}" if room is not None and columns(f"{text} = {total}") > room else f"{text} = {total}"

    # files

    def page(self) -> str:
        parts = [f"<header><h1>{html.escape(self._title())}</h1></header>", "<main>", self.graph.to_svg()]
        for head, rows in self._tables(Paper(), limit=2000):
            parts.append(page.table([c.title for c in head], rows))
        parts += [f'<p class="soft">{html.escape(m)}</p>' for m in self.data["missing"]]
        return page.page("look.trace", "\n".join([*parts, "</main>"]))

    def picture(self) -> Drawing:
        return self.graph.picture()


def value_text(figures, dtype, short=False) -> str:
    """Values of a small array, norm, mean and range of another (of magnitudes for complex numbers), the norm alone if
    `short`, "not kept" for None."""
    if figures is None:
        return "not kept"
    if "values" in figures:
        return values_text(figures["values"], dtype)
    if figures["mean"] is None:
        return "empty"
    if short:
        return f"norm {figure(figures['norm'])}"
    of = " (of magnitudes)" if dtype.startswith("complex") else ""
    return (f"norm {figure(figures['norm'])}, mean {figure(figures['mean'])}, {figure(figures['min'])} to "
            f"{figure(figures['max'])}{of}")


def derivative_text(local) -> str:
    """A local derivative: the values of an elementwise one, the rows of a Jacobian."""
    return "" if local is None else values_text(local["values"], "float64")


def _rule_text(i) -> str:
    return i["written"] or "its rule"


def _middle(rows, limit) -> list[list[str]]:
    """The first and last rows of many."""
    if len(rows) <= limit:
        return rows
    half = limit // 2
    return [*rows[:half], [f"{len(rows) - 2 * half:,} more", *[""] * (len(rows[0]) - 1)], *rows[-half:]]
