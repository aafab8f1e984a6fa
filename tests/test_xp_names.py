"""Every `xp.NAME(...)` and `special.NAME(...)` in the package exists in CuPy and takes the keywords it is called with.

Read from the sources by `ast`, checked against importable CuPy: no GPU is needed.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pathlib

import pytest

import tinytorch_gpu

PACKAGE = pathlib.Path(tinytorch_gpu.__path__[0])
UFUNC_KEYWORDS = {"out", "dtype", "casting"}


def dotted(node) -> str | None:
    """`xp.linalg.norm` for that expression; None unless it begins with a variable or attribute xp or special."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
        if parts[-1] in ("xp", "special"):  # backend.xp.sum
            return ".".join(reversed(parts)) if len(parts) > 1 else None
    if isinstance(node, ast.Name) and node.id in ("xp", "special") and parts:
        return ".".join([node.id, *reversed(parts)])
    return None


def uses(source: str):
    """(dotted name, keyword names or None for a bare use, line) of each use in one module."""
    called = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and (name := dotted(node.func)):
            called.add(id(node.func))
            yield name, [k.arg for k in node.keywords if k.arg is not None], node.lineno
        elif isinstance(node, ast.Attribute) and id(node) not in called and (name := dotted(node)):
            yield name, None, node.lineno


def fault(name: str, keywords, roots: dict) -> str | None:
    root, *rest = name.split(".")
    value = roots[root]
    for i, part in enumerate(rest):
        try:
            value = getattr(value, part)
        except AttributeError as error:
            # an attribute of an object (xp.float32.name) is no name of CuPy; one of a module is
            return str(error) if inspect.ismodule(value) or i == 0 else None
    if not keywords:
        return None
    if type(value).__name__ == "ufunc":
        wrong = set(keywords) - UFUNC_KEYWORDS
    else:
        try:
            parameters = inspect.signature(value.__call__ if type(value).__name__ == "_GUFunc" else value).parameters
        except (TypeError, ValueError):  # a built-in without a signature
            return None
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return None
        wrong = set(keywords) - set(parameters)
    return f"{name} takes no {', '.join(sorted(wrong))}" if wrong else None


@pytest.fixture(scope="module")
def roots():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed: the names cannot be checked against it")
    return {"xp": cupy, "special": importlib.import_module("cupyx.scipy.special")}


def test_every_name_and_keyword_exists_in_cupy(roots):
    faults, checked = [], 0
    for path in sorted(PACKAGE.rglob("*.py")):
        if "simulated" in path.parts:
            continue
        for name, keywords, line in uses(path.read_text(encoding="utf-8")):
            checked += 1
            if text := fault(name, keywords, roots):
                faults.append(f"{path.relative_to(PACKAGE)}:{line}: {text}")
    assert not faults, "\n".join(faults)
    assert checked > 50, "the walk found almost no use of xp: its pattern is wrong"


@pytest.mark.parametrize("bad", [
    "xp.no_such_name(a)", "xp.sum(a, where=m)", "xp.linalg.no_such(a)", "xp.add(a, b, where=m)",
    "xp.var(a, correction=1)", "special.no_such(a)", "special.erf(a, where=m)",
    "backend.xp.max(a, initial=0)", "f = xp.errstate",
])
def test_a_planted_bad_call_is_found(roots, bad):
    assert any(fault(name, keywords, roots) for name, keywords, _ in uses(bad))


@pytest.mark.parametrize("good", [
    "xp.sum(a, axis=0, keepdims=True)", "xp.linalg.norm(a, axis=1)", "xp.add(a, b, out=c)", "special.erf(a)",
    "xp.matmul(a, b, out=c)", "xp.float32", "xp.lib.stride_tricks.as_strided(a, shape=s, strides=t)", "self.xp",
])
def test_good_calls_pass(roots, good):
    assert not [t for name, keywords, _ in uses(good) if (t := fault(name, keywords, roots))]
