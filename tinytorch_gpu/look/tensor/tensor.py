"""`look.tensor(t)`: a tensor as memory. What it is, whose memory it lies in, who else does, what autograd holds."""
from __future__ import annotations

import html
import itertools
import linecache
import sys

from ...autograd.node import endpoint
from ...backend import dtypes
from ...backend.device import backend_of, host_array, is_array
from ...tensor import INFERENCE, Tensor
from .. import page
from ..drawing import Drawing
from ..graph.collect import short_file
from ..saved import saved_of
from ..terminal import Column, Paper, count_of, figure, shape_of, size_of, table, wrap
from ..view import View
from .drawing import MAP, bucket_shares, memory_lines, memory_picture, title_of
from .figures import figures_of, plain
from .layout import layout_of, owner_of
from .sharing import found_with

__all__ = ["TensorView", "cell", "tensor"]

CELLS = 40  # elements of a memory that is drawn whole
PART = 28  # elements that are drawn of a larger one
SMALL = 16  # elements of a gradient whose values are shown
SHOWN = 12  # rows of who shares the memory in the text


def tensor(t) -> TensorView:
    """A Tensor as memory: its layout drawn, base, who shares the memory, version, gradient, what its operator saved.

        x = tt.tensor([[1., 2., 3.], [4., 5., 6.]], requires_grad=True)
        look.tensor(x.T).print()

    Everything is read at the call, with one pass over the elements and one over Python's objects; the view keeps no
    tensor alive. Of a tensor on a device it waits for that. Names are those of local variables of the running
    functions and of the parameters of such Modules.

    Raises: TypeError for what is no Tensor.
    """
    if not isinstance(t, Tensor):
        how = ": tt.tensor(...) or tt.from_numpy(...) makes one" if is_array(t) else ""
        raise TypeError(f"[tensor] expected a Tensor, got {type(t).__name__}{how}")
    node = t.grad_fn  # of a view whose base was changed, made anew
    shared, names = found_with(t)
    layout = layout_of(t._array)
    data = {
        "view": "tensor", "name": _bare(names.get(id(t))), "class": type(t).__name__, "shape": list(t.shape),
        "dtype": t.dtype.name, "device": str(t.device), "itemsize": t.itemsize, "elements": layout.elements,
        "bytes": t.nbytes, "strides": [s // t.itemsize if s % t.itemsize == 0 else s / t.itemsize
                                       for s in layout.strides],
        "stride_bytes": list(layout.strides), "layout": layout.kind, "memory": _memory(t, layout),
        "view_of": _base(t, names), "shared_by": shared,
        "version": None if t._version_ is INFERENCE else t._version, "requires_grad": t.requires_grad,
        "is_leaf": t.is_leaf, "retains_grad": t.retains_grad, "values": figures_of(t._array),
        "grad": _gradient(t), "grad_fn": _function(node, t.output_nr),
    }
    return TensorView(data, layout)


def cell(t) -> str:
    """What a notebook shows of a Tensor: its text, and the view folded below it."""
    view = tensor(t)
    return (f"<pre>{html.escape(repr(t))}</pre>\n<details><summary>{html.escape(view._title())}</summary>\n"
            f"{view._repr_html_()}\n</details>")


class TensorView(View):
    """The view of `look.tensor`. `data["memory"]` has the layout, `data["memory"]["cells"]` the drawn elements."""

    def __init__(self, data: dict, layout):
        self.data, self._layout = data, layout

    def __repr__(self):
        return f"<look.tensor: {title_of(self.data)}>"

    def height(self) -> int:
        return 460

    # text

    def lines(self, paper: Paper) -> list[str]:
        d = self.data
        lines = wrap(paper, self._title())
        lines.append("")
        facts = list(self._facts())
        width = max(len(name) for name, _ in facts) + 2
        for name, text in facts:
            for k, part in enumerate(_beside(paper, text, width)):
                lines.append(f"{'' if k else name:{width}}{part}".rstrip())
        if d["shape"]:
            head = [Column("dim", right=True), Column("size", right=True), Column("stride", right=True),
                    Column("one step further lies")]
            lines += ["", *table(paper, head, self._dims())[0]]
        lines += ["", *wrap(paper, self._memory_title()), *memory_lines(paper, d["memory"], self._layout)]
        if d["shared_by"]:
            head = [Column("shares the memory", least=12), Column("array", least=8), Column("at", right=True),
                    Column("in common"), Column("what it is", least=8, keep=1)]
            rows = self._sharing()
            lines += ["", *table(paper, head, rows[:SHOWN])[0]]
            lines += [f"and {len(rows) - SHOWN:,} more, in data and .html"] if len(rows) > SHOWN else []
        saved = (d["grad_fn"] or {}).get("saved")
        if saved:
            head = [Column(f"{d['grad_fn']['name']} saved"), Column("array", least=8), Column("bytes", right=True),
                    Column("in memory of", right=True, keep=2), Column("", keep=1)]
            lines += ["", *table(paper, head, _saved_rows(saved))[0]]
        return lines

    def _title(self) -> str:
        d = self.data
        parts = [f"{d['class']} {title_of(d)}"]
        if d["grad"] is not None:
            parts.append(f"its gradient {size_of(d['grad']['bytes'])}")
        if d["grad_fn"] is not None and d["grad_fn"]["saved_bytes"]:
            parts.append(f"saved by {d['grad_fn']['name']} {size_of(d['grad_fn']['saved_bytes'])}")
        return "; ".join(parts)

    def _facts(self):
        d = self.data
        size = count_of(d["elements"], "element")
        yield "shape", f"{d['shape']}: {size} of {d['itemsize']} B, {d['dtype']}"
        yield "strides", f"{d['strides']} elements, {d['stride_bytes']} B: {_KINDS[d['layout']]}"
        sharers = sum(r["what"] == "tensor" for r in d["shared_by"])
        yield "memory", _owned(d["memory"], sharers)
        view = d["view_of"]
        if view is not None:
            name = f"{view['name']}, " if view["name"] else ""
            yield "view of", f"{name}{shape_of(view['dtype'], view['shape'])} by " + ", ".join(view["steps"]) + (
                "; made while nothing was recorded" if view["constant"] else "")
        elif not d["memory"]["own"] and not d["memory"]["alone"]:
            yield "view of", "no Tensor that autograd knows of: changes of its memory elsewhere are not noticed"
        yield "version", ("none: made in inference mode" if d["version"] is None else
                          f"{d['version']}, " + (f"changed in place {count_of(d['version'], 'time')}" if d["version"]
                                                 else "never changed in place"))
        yield "autograd", self._autograd()
        yield "grad", _grad_said(d)
        v = d["values"]
        if v["min"] is not None:
            bad = "".join(f", {v[k]:,} {name}" for k, name in (("nan", "NaN"), ("inf", "Inf")) if v[k])
            bad += f", {count_of(v['zeros'], 'zero')}" if v["zeros"] else ""
            of = " (of magnitudes)" if d["dtype"].startswith("complex") else ""
            yield "values", (f"norm {figure(v['norm'])}, mean {figure(v['mean'])}, min {figure(v['min'])}, max "
                             f"{figure(v['max'])}{of}{bad}")

    def _autograd(self) -> str:
        d = self.data
        if not d["requires_grad"]:
            return "requires_grad False: operators on it are not recorded for its sake"
        if d["grad_fn"] is None:
            return "requires_grad True, a leaf: backward() adds to its .grad"
        f = d["grad_fn"]
        line = f["line"]
        where = f", {short_file(line['file'])}:{line['number']} {line['source']}" if line else ""
        kept = ", keeps its .grad" if d["retains_grad"] else ""
        return f"requires_grad True, output {f['output']} of {f['name']}({', '.join(f['inputs'])}){kept}{where}"

    def _dims(self) -> list[list[str]]:
        d = self.data
        rows = []
        for k, (n, s, b) in enumerate(zip(d["shape"], d["strides"], d["stride_bytes"])):
            text = ("nowhere: there is none" if n == 0 or not d["elements"] else "nowhere: there is one" if n == 1 else
                    "in the same element" if b == 0 else f"{abs(b):,} B {'further' if b > 0 else 'back'}")
            rows.append([str(k), f"{n:,}", f"{s:,}", text])
        return rows

    def _memory_title(self) -> str:
        d = self.data
        m = d["memory"]
        if not d["elements"]:
            return "no memory to draw: it has no elements"
        share = ("an irregular part of it" if m["touched"] is None else
                 f"{size_of(m['touched'])} of it" + (f", {m['touched'] / m['bytes']:.1%}"
                                                     if m["touched"] < m["bytes"] else ""))
        again = f", each element {m['repeats']:,} times by stride 0" if m["repeats"] > 1 else ""
        text = f"the memory, {size_of(m['bytes'])}, in the order in which it lies; the tensor touches {share}{again}"
        if not m["cells"]:
            return text + "; not drawn: elements do not lie at multiples of their size"
        return text if m["whole"] else f"{text}; below, the first elements"

    def _sharing(self):
        return [[_bare(r["name"]) or "(without a name)", shape_of(r["dtype"], r["shape"]), size_of(r["offset"]),
                 r["common"], r["relation"] + (", one version counter" if r["same_version"] else "")]
                for r in self.data["shared_by"]]

    # files

    def page(self) -> str:
        d = self.data
        parts = [f"<header><h1>{html.escape(self._title())}</h1></header>", "<main>", self.to_svg(),
                 page.table(["", ""], list(self._facts()))]
        if d["shape"]:
            parts.append(page.table(["dim", "size", "stride", "one step further lies"], self._dims(), [0, 1, 2]))
        if d["shared_by"]:
            parts += ["<h2>shares the memory</h2>",
                      page.table(["who", "array", "at", "in common", "what it is"], self._sharing(), [2])]
        if (d["grad_fn"] or {}).get("saved"):
            parts += [f"<h2>{html.escape(d['grad_fn']['name'])} saved</h2>",
                      page.table(["source", "array", "bytes", "in memory of", ""], _saved_rows(d["grad_fn"]["saved"]),
                                 [2, 3])]
        return page.page("look.tensor", "\n".join([*parts, "</main>"]))

    def picture(self) -> Drawing:
        """The tensor, its memory, its gradient and its operator, drawn."""
        return memory_picture(self.data)


_KINDS = {
    "contiguous": "contiguous", "empty": "empty", "broadcast": "broadcast, a stride of 0 repeats elements",
    "overlapping": "overlapping, elements are there more than once", "strided": "strided, with gaps",
    "permuted": "dense, but the dimensions are permuted", "reversed": "dense, from the end to the beginning",
}


def _beside(paper, text, margin) -> list[str]:
    """A paragraph that stands beside a column of `margin`."""
    return [line[margin:] if k == 0 else line.lstrip() for k, line in enumerate(
        wrap(paper, "x" * (margin - 1) + " " + text, " " * margin))]


def _bare(name) -> str | None:
    """A name without where it lives: `x` in train(), train.py is x."""
    return name.split("`")[1] if name and "`" in name else name


def _memory(t, layout) -> dict:
    alone = _alone(t._array)  # before `owner` is one reference more
    owner, beyond = owner_of(t._array)
    whole = layout.memory <= CELLS * layout.itemsize
    first = layout.span[0]
    low = 0 if whole else first
    high = min(layout.memory, low + (CELLS if whole else PART) * layout.itemsize)
    return {
        "bytes": layout.memory, "shape": list(owner.shape), "dtype": dtypes.of(owner).name,
        "own": owner is t._array or alone and layout.touched() == layout.memory, "alone": alone,
        "foreign": None if beyond is None else type(beyond).__name__, "offset": layout.start, "first": first,
        "last": layout.span[1], "touched": layout.touched(), "repeats": layout.repeats, "whole": whole,
        "map": None if whole or not layout.elements else bucket_shares(layout, MAP),
        "cells": _cells(t._array, layout, low, high) if layout.elements and layout.aligned() else [],
    }


def _alone(array) -> bool:
    """Whether nothing but this array refers to the one whose memory it lies in: what was made flat and got its shape
    afterwards, as by randn(), is nobody's view. Its references are compared with those of such a probe."""
    probe = backend_of(array).xp.zeros(4, array.dtype).reshape(2, 2)
    found = _references(array)
    return found is not None and found == _references(probe)


def _references(array) -> int | None:
    base = getattr(array, "base", None)
    return None if base is None or getattr(base, "base", None) is not None else sys.getrefcount(base)


def _cells(array, layout, low, high) -> list[dict]:
    size = layout.itemsize
    cells = [{"byte": at, "touched": False, "index": [], "times": 0, "value": None} for at in range(low, high, size)]
    first = []
    for at, index in itertools.islice(layout.inside(low, high), 4096):
        cell = cells[(at - low) // size]
        if not cell["touched"]:
            cell["touched"] = True
            first.append((cell, tuple(0 if i is None else i for i in index)))
        cell["times"] += 1
        if len(cell["index"]) < 3:
            cell["index"].append(",".join(":" if i is None else str(i) for i in index) or "()")
    if first:
        stacked = backend_of(array).xp.stack([array[(*index, ...)] for _, index in first])
        for (cell, _), value in zip(first, plain(host_array(stacked))):
            cell["value"] = _value(value)
    return cells


def _value(v) -> str:
    if isinstance(v, list):
        return f"{v[0]:.3g}{v[1]:+.3g}j"
    return f"{v:.4g}" if isinstance(v, float) else str(v)


def _base(t, names) -> dict | None:
    view = t._view
    if view is None:
        return None
    base = view.base
    return {"name": _bare(names.get(id(base))), "shape": list(base.shape), "dtype": base.dtype.name,
            "requires_grad": base.requires_grad, "is_leaf": base.is_leaf, "constant": view.constant,
            "steps": [_step(operator, params) for operator, params in view.steps]}


def _step(operator, params) -> str:
    """An operator that leads from the base to a view, as a call: Transpose(dim0=0, dim1=1)."""
    params = dict(params)
    if not isinstance(operator, type):  # one output of several
        operator, output = operator.cls, params.pop("output")
        return f"{operator.__name__}({_options(params)})[{output}]"
    return f"{operator.__name__}({_options(params)})"


def _options(params) -> str:
    return ", ".join(f"[{_index(v)}]" if k == "index" and isinstance(v, tuple) else f"{k}={v}"
                     for k, v in params.items())


def _index(index) -> str:
    def one(i):
        if isinstance(i, slice):
            edges = ":".join("" if v is None else str(v) for v in (i.start, i.stop))
            return edges + ("" if i.step is None else f":{i.step}")
        return "..." if i is Ellipsis else str(i)

    if len(index) > 1 and index[-1] is Ellipsis:  # what a program leaves out
        index = index[:-1]
    return ", ".join(map(one, index))


def _gradient(t) -> dict | None:
    g = t._grad
    if g is None:
        return None
    found = {"shape": list(g.shape), "dtype": g.dtype.name, "bytes": g.nbytes, **figures_of(g._array)}
    if 0 < g._array.size <= SMALL:
        found["values"] = [_value(v) for v in plain(host_array(g._array))]
    return found


def _function(node, output) -> dict | None:
    if node is None:
        return None
    saved = saved_of(node)
    memories = {s.memory: s.held for s in saved or () if not s.leaf}
    line = None
    if node.trace is not None:
        file, number, function = node.trace.frames[-1]
        line = {"file": file, "number": number, "function": function,
                "source": linecache.getline(file, number).strip()}
    return {"name": node.name(), "output": output, "line": line,
            "inputs": ["constant" if e is None else endpoint(e)[0].name() for e in node.edges],
            "saved_bytes": None if saved is None else sum(memories.values()),
            "saved": None if saved is None else [
                {"source": s.source, "shape": list(s.shape), "dtype": s.dtype, "bytes": s.bytes,
                 "memory_bytes": s.held, "leaf": s.leaf} for s in saved]}


def _saved_rows(saved):
    return [[s["source"], shape_of(s["dtype"], s["shape"]), size_of(s["bytes"]), size_of(s["memory_bytes"]),
             "a leaf's own memory" if s["leaf"] else ""] for s in saved]


def _owned(m, sharers) -> str:
    size, behind = size_of(m["bytes"]), f", in memory that a {m['foreign']} lends" if m["foreign"] else ""
    if m["own"]:
        others = f", which {count_of(sharers, 'other Tensor')} share{'s' if sharers == 1 else ''}" if sharers else ""
        return f"{size}{behind or ', a whole allocation'}{others}"
    start = f"; its first element at {size_of(m['offset'])}" if m["offset"] != m["first"] else ""
    return (f"{size_of(m['first'])} to {size_of(m['last'])} of an allocation of {size}, "
            f"{shape_of(m['dtype'], m['shape'])}{behind}{start}")


def _grad_said(d) -> str:
    g = d["grad"]
    if g is None:
        return ("none yet" if d["is_leaf"] or d["retains_grad"] else "none: only leaves keep one, or retain_grad()"
                ) if d["requires_grad"] else "none"
    text = f"{shape_of(g['dtype'], g['shape'])}, {size_of(g['bytes'])}"
    if g["min"] is None:
        return text
    bad = "".join(f", {g[k]:,} {name}" for k, name in (("nan", "NaN"), ("inf", "Inf")) if g[k])
    of = " (of magnitudes)" if g["dtype"].startswith("complex") else ""
    return f"{text}, norm {figure(g['norm'])}, min {figure(g['min'])}, max {figure(g['max'])}{of}{bad}"
