"""`look.explain(op)`: what an operator computes and what its gradient is, from its docstring and its own rule."""
from __future__ import annotations

import difflib
import html
import inspect
import re
import textwrap

from ...autograd.function import Function, _FunctionNode
from ...autograd.modes import inference_mode, state
from ...autograd.node import REGISTRY, Node
from ...autograd.operator import Operator
from ...backend import dtypes
from ...backend.kernel import use_kernels
from ...tensor import Tensor
from .. import page
from ..drawing import Drawing
from ..graph.collect import walk
from ..terminal import Paper, columns, shape_of, wrap
from ..view import View
from .examples import EXAMPLES, leaf
from .public import applied, public_names
from .rule import expression, input_meta, input_names, key, rule_of, spoken

__all__ = ["Explanation", "explain"]


def explain(op) -> Explanation:
    """An operator: its docstring, its forward, the gradient of each input, the source of its rule, a drawing.

    `op` is a name ("Tanh", "log_softmax"), also of a public function or method ("matmul", "conv2d", "getitem"), which
    is called on small numbers to see what it applies; an operator's or Function's class, a function (tt.tanh), or a
    Tensor or a `grad_fn`, whose operator is meant with its options. Formulas are read off the rule: of the given node,
    or of an example on small numbers, whose shapes are in `data["note"]`; of your own operator that needs options, give
    a Tensor.

    Raises: ValueError for an unknown name and for a Tensor without a graph, TypeError for anything else.
    """
    if isinstance(op, Tensor):
        if op.grad_fn is None:
            raise ValueError("[explain] the tensor has no grad_fn: give one that was computed with gradients, or a "
                             "name")
        op = op.grad_fn
    if isinstance(op, Node):
        return _explained(op.function if isinstance(op, _FunctionNode) else type(op), op, rule_of(op))
    if inspect.isclass(op) and issubclass(op, Function):
        return _explained(op, None, None, "a Function's backward is no formula")
    cls, called = (op, "") if inspect.isclass(op) and issubclass(op, Operator) else _named(op)
    node, rule, why = _example(cls)
    return _explained(cls, node, rule, "; ".join(filter(None, (called, why))))


def _named(op) -> tuple[type, str]:
    """(the operator, how it was found: "" for its own name, or the call of a public function that applies it)."""
    name = op if isinstance(op, str) else getattr(op, "__name__", None) if callable(op) else None
    if name is None:
        raise TypeError("[explain] expected an operator's name, class or function, a Tensor or a grad_fn, got "
                        f"{type(op).__name__}")
    known = {key(n): cls for n, cls in REGISTRY.items()}
    if key(name) in known:
        return known[key(name)], ""
    found = applied(name)
    if found is not None:
        public, classes, given = found
        if len(classes) == 1:
            return classes[0], f"{public}({given}) applies {classes[0].__name__}"
        raise ValueError(f"[explain] {public}({given}) applies {', '.join(c.__name__ for c in classes)}: explain one "
                         "of them, or look.graph of its result")
    names = {**public_names(), **{k: cls.__name__ for k, cls in known.items()}}
    if key(name) in names:
        raise ValueError(f"[explain] {names[key(name)]} is no operator, and what it applies was not found by calling "
                         "it on small arrays: give look.explain a Tensor that it computed")
    near = difflib.get_close_matches(key(name), [k for k, n in names.items() if not n.startswith("_")], 3, 0.6)
    hint = f"; near to it {'is' if len(near) == 1 else 'are'} {', '.join(names[n] for n in near)}" if near else ""
    raise ValueError(f"[explain] no operator or function is called {name!r}{hint}; look.graph of a result shows which "
                     "operators made it")


def _example(cls):
    """(a node made from small numbers, its rule, its shapes where they matter) or (None, None, why not)."""
    if not cls.differentiable:
        return None, None, "it has no gradient"
    casts, state.autocast = state.autocast, None
    try:
        with inference_mode(False), use_kernels(False):
            node = _applied(cls)
    finally:
        state.autocast = casts
    if node is not None:
        rule = rule_of(node)
        return node, rule, _shapes(node, rule) if _has_example(cls) else ""
    names = ", ".join(list(inspect.signature(cls.forward).parameters)[1:])
    return None, None, (f"of its operands and options ({names}) no example can be made: give look.explain a Tensor "
                        "that it computed")


def _has_example(cls) -> bool:
    return cls.__name__ in EXAMPLES and REGISTRY.get(cls.__name__) is cls


def _shapes(node, rule) -> str:
    """What the example was: formulas depend on shapes and options."""
    known = [(name, input_meta(node, i)) for i, name in enumerate(rule.inputs) if node.edges[i] is not None]
    known += zip(rule.outputs, node.metas or ((node.shape, node.dtype),))
    shapes = [f"{name} {shape_of(dtypes.from_any(dtype).name, shape)}" for name, (shape, dtype) in known]
    return f"read off an example: {', '.join(shapes)}"


def _applied(cls):
    """A node of an operator: of its own example, or on one, two or three matrices; None where that fails."""
    if _has_example(cls):
        out = EXAMPLES[cls.__name__]()
        operators, _ = walk([t._edge() for t in (out if isinstance(out, tuple) else (out,)) if t.requires_grad])
        return next(node for node in operators if type(node) is cls)
    for n in (1, 2, 3):
        operands = [leaf(2, 2, at=0.2 + k / 8) for k in range(n)]
        try:
            out = cls.apply(*operands)
        except Exception:  # another number of operands, or options: only its author knows all ways to refuse
            out = None
        node = out[0].grad_fn if isinstance(out, tuple) else None if out is None else out.grad_fn
        if node is not None and any(rule_of(node).formulas):
            return node
    return None


def _explained(cls, node, rule, why="") -> Explanation:
    data: dict = {
        "view": "explain", "name": node.name() if node is not None else cls.__name__,
        "doc": inspect.cleandoc(cls.__doc__ or ""), "module": cls.__module__, "rule": _source(cls),
        "inputs": [], "outputs": [], "forward": None, "gradients": [], "arrives": [], "uses": {}, "note": why,
    }
    if node is not None:
        data["inputs"], data["outputs"], data["arrives"] = rule.inputs, rule.outputs, rule.arrives
        data["forward"] = f"{', '.join(rule.outputs)} = " + expression(
            node.name(), [(name, 9) for name in input_names(node)], node)[0]
        data["gradients"] = [{"input": name, "formula": formula, "needs": edge is not None}
                             for name, formula, edge in zip(rule.inputs, rule.formulas, node.edges)]
        data["note"] = "; ".join(filter(None, (why, rule.why)))
        for used in sorted(set(re.findall(r"(\w+)\(", " ".join(f for f in rule.formulas if f)))):
            other = REGISTRY.get(next((n for n in REGISTRY if key(n) == key(used)), ""))
            if other is not None and used.endswith("_backward"):  # the names of others say what they do
                data["uses"][used] = inspect.cleandoc(other.__doc__ or "").split("\n")[0]
    return Explanation(data)


def _source(cls) -> str:
    """The source of the rule, with the `derivative` that some rules are written by; "" where there is no file."""
    parts = []
    for name in ("backward", "derivative"):
        method = getattr(cls, name, None)
        if method is None or method is Operator.backward:
            continue
        try:
            parts.append(textwrap.dedent(inspect.getsource(method)).rstrip())
        except OSError:  # typed in, or run from a bundle without sources
            return ""
    return "\n\n".join(parts)


class Explanation(View):
    """The view of `look.explain`."""

    def __init__(self, data: dict):
        self.data = data

    def __repr__(self):
        return f"<look.explain: {self.data['name']}>"

    def lines(self, paper: Paper) -> list[str]:
        d = self.data
        lines = [paper.strong(line) for line in wrap(paper, d["name"])]
        for paragraph in d["doc"].split("\n\n"):
            lines += wrap(paper, paragraph)
        drawn = self._drawn(paper)
        if drawn:
            lines += ["", *drawn]
        if d["forward"]:
            lines += ["", *wrap(paper, f"forward {paper.down}  {d['forward']}", "    ")]
        for g in d["gradients"]:
            if g["needs"]:
                lines += wrap(paper, f"backward {paper.up}  {g['input']}: {g['formula'] or 'by its rule'}", "    ")
        for name, doc in d["uses"].items():
            lines += wrap(paper, f"{name}: {doc}", "    ")
        if d["note"]:
            lines += ["", *wrap(paper, f"{paper.dot} {d['note']}", "  ")]
        if d["rule"]:
            lines += ["", *wrap(paper, f"its rule, in {d['module']}:")]
            lines += [paper.cut("    " + line, paper.width).rstrip() for line in d["rule"].splitlines()]
        return lines

    def _drawn(self, paper) -> list[str]:
        """Inputs on the left, the operator in a box, gradients back along the same lines."""
        rows = [(g["input"], _back(g)) for g in self.data["gradients"]]
        if not rows:
            return []
        names = max(columns(name) for name, _ in rows)
        back = max(columns(text) for _, text in rows)
        box = columns(self.data["name"]) + 2
        out, arrives = ", ".join(self.data["outputs"]), ", ".join(self.data["arrives"])
        if names + back + box + max(columns(arrives), columns(out)) + 13 > paper.width:
            return []
        lines = []
        height = max(4, len(rows) * 2)
        middle = height // 2
        for k in range(height + 1):
            if k == 0 or k == height:
                edge = (paper.tl, paper.tr) if k == 0 else (paper.bl, paper.br)
                lines.append(" " * (names + back + 5) + edge[0] + paper.h * box + edge[1])
                continue
            inside = f" {self.data['name']} " if k == middle else " " * box
            name = rows[k // 2][0] if k % 2 and k // 2 < len(rows) else ""
            way = f"{name:>{names}} {paper.h * (back + 3 - columns(paper.to))}{paper.to}" if name else ""
            way += " " * (names + back + 5 - columns(way))
            right = f"{paper.h * 2}{paper.to} {out}" if k == middle else ""
            right = f"{paper.by}{paper.h * 2} {arrives}" if k == middle + 1 and k < height else right
            lines.append(f"{way}{paper.v}{inside}{paper.v}{right}".rstrip())
        for k, (_, text) in enumerate(rows):
            under = 2 * k + 2
            line = f"{' ' * (names + 1)}{paper.by} {text}"
            lines[under] = line + lines[under][columns(line):]
        return lines

    def picture(self) -> Drawing:
        d = self.data
        if not d["gradients"]:
            raise ValueError(f"[save] there is nothing to draw: {d['name']}: {d['note']}")
        texts = [_back(g) for g in d["gradients"]]
        left = max(len(g["input"]) for g in d["gradients"]) * 8 + 40
        way = max(180, max(len(t) for t in texts) * 6.8 + 40)
        high = 62.0 * len(texts)
        wide = len(d["name"]) * 8 + 40
        drawing = Drawing(left + way + wide + 160, high + 60)
        drawing.text(10, 18, d["doc"].split("\n")[0], "title")
        drawing.width = max(drawing.width, len(d["doc"].split("\n")[0]) * 8.9 + 20)
        drawing.box(left + way, 36, wide, high, "operator")
        drawing.text(left + way + wide / 2, 40 + high / 2, d["name"], "name", "middle")
        for k, (g, text) in enumerate(zip(d["gradients"], texts)):
            y = 36 + 62 * k + 31
            drawing.box(10, y - 15, left - 20, 30, "leaf")
            drawing.text(left / 2, y + 4, g["input"], "name", "middle")
            drawing.line(left - 10, y - 6, left + way, y - 6, "forward")
            if g["needs"]:
                drawing.line(left + way, y + 6, left - 10, y + 6, "backward")
                drawing.text(left + way / 2, y + 20, text, "backward", "middle")
        end, y = left + way + wide, 36 + high / 2
        drawing.line(end, y - 6, end + 70, y - 6, "forward")
        drawing.line(end + 70, y + 6, end, y + 6, "backward")
        drawing.text(end + 78, y - 2, ", ".join(d["outputs"]), "forward")
        drawing.text(end + 78, y + 12, ", ".join(d["arrives"]), "backward")
        return drawing

    def page(self) -> str:
        d = self.data
        parts = [f"<header><h1>{html.escape(d['name'])}</h1></header>", "<main>"]
        parts += [f"<p>{html.escape(p)}</p>" for p in d["doc"].split("\n\n")]
        if d["gradients"]:
            rows = [["forward", d["forward"]]]
            rows += [[f"gradient of {g['input']}", g["formula"] or "by its rule"] for g in d["gradients"] if g["needs"]]
            rows += [[name, doc] for name, doc in d["uses"].items()]
            parts += [self.to_svg(), page.table(["", spoken(d["name"])], rows)]
        parts += [f'<p class="soft">{html.escape(d["note"])}</p>'] if d["note"] else []
        parts += [f"<h2>rule</h2>\n<pre>{html.escape(d['rule'])}</pre>"] if d["rule"] else []
        return page.page(f"look.explain: {d['name']}", "\n".join([*parts, "</main>"]))


def _back(g) -> str:
    """What goes back to an input, in words."""
    return g["formula"] or "by its rule" if g["needs"] else "no gradient"
