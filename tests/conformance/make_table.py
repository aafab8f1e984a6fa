"""Writes the table of CuPy's names, signatures and type loops that the simulated device obeys.

    python tests/conformance/make_table.py        (needs an importable CuPy, no GPU)

`test_simulated.py` builds the table again wherever CuPy is importable and compares it with the committed one.
"""

from __future__ import annotations

import inspect
import json
import pathlib

TABLE = pathlib.Path(__file__).resolve().parents[2] / "tinytorch_gpu/backend/simulated/cupy_table.json"
# The constructors of module-level objects and CuPy's own machinery: nothing a numerical program calls by value.
SKIPPED = {"fuse", "memoize", "clear_memo", "make_aligned_dtype", "show_config", "disp", "who"}


def code(dtype) -> str:
    """`f4` for float32, `bf` for bfloat16: one spelling on every platform (the char `l` is 4 bytes on Windows)."""
    return "bf" if dtype.name == "bfloat16" else dtype.str[1:]


def loop(op) -> str:
    return ",".join(map(code, op.in_types)) + ">" + ",".join(map(code, op.out_types))


def message(op) -> str:
    try:
        op.error_func()
    except TypeError as error:
        return str(error)
    raise AssertionError(f"the error function of {op} did not raise")


def ufunc_row(u) -> dict:
    row = {"nin": u.nin, "nout": u.nout, "name": u.name}
    # V: structured dtypes, which the device does not have here
    row["loops"] = list(dict.fromkeys(loop(op) for op in u._ops.ops if "V" not in loop(op)))
    errors = {loop(op): message(op) for op in u._ops.ops if op.error_func is not None}
    if errors:
        row["errors"] = errors
    if u._out_ops is not None:
        row["out_loops"] = list(dict.fromkeys(loop(op) for op in u._out_ops.ops))
    if u._default_casting != "same_kind":
        row["casting"] = u._default_casting
    if u._scatter_op is not None:
        row["scatter"] = u._scatter_op
    return row


def signature_text(parameters) -> str:
    """Parameter names in order; `=` marks a default, `*` opens the keyword-only ones."""
    words, star = [], False
    for p in parameters:
        if p.kind is p.VAR_POSITIONAL:
            words.append("*" + p.name)
            star = True
        elif p.kind is p.VAR_KEYWORD:
            words.append("**" + p.name)
        else:
            if p.kind is p.KEYWORD_ONLY and not star:
                words.append("*")
                star = True
            words.append(p.name + ("" if p.default is p.empty else "="))
    return ", ".join(words)


def documented_signature(name, function) -> str:
    """Cython embeds `name(type a, axis=None) -> type` in the first line of the docstring."""
    line = (function.__doc__ or "").strip().split("\n")[0]
    inside = line[line.index("(") + 1 : line.rindex(")")]
    words = []
    for part in inside.split(","):
        part = part.strip()
        left, equals, _ = part.partition("=")
        if left.split()[-1] != "self":
            words.append(left.split()[-1] + ("=" if equals else ""))
    return ", ".join(words)


def function_signature(name, function) -> str:
    try:
        return signature_text(inspect.signature(function).parameters.values())
    except ValueError:
        return documented_signature(name, function)


def names_of(module) -> dict:
    """The public callables of one CuPy module, sorted into functions, ufuncs, types and constants."""
    functions, ufuncs, types, constants = {}, {}, [], []
    for name in sorted(dir(module)):
        value = getattr(module, name)
        kind = type(value).__name__
        if name.startswith("_") or name in SKIPPED or inspect.ismodule(value):
            continue
        if kind == "ufunc":
            ufuncs[name] = ufunc_row(value)
        elif kind == "_GUFunc":
            functions[name] = signature_text(list(inspect.signature(value.__call__).parameters.values()))
        elif isinstance(value, type) or kind == "_DTypeMeta":
            types.append(name)
        elif callable(value) and kind in ("function", "builtin_function_or_method", "cython_function_or_method"):
            functions[name] = function_signature(name, value)
        elif isinstance(value, float) or value is None:
            constants.append(name)
    return {"functions": functions, "ufuncs": ufuncs, "types": types, "constants": constants}


def reductions() -> dict:
    """Loops of the reduction kernels; `acc` is the C type that the kernel accumulates in, where it differs."""
    from cupy._core import _routines_logic as logic
    from cupy._core import _routines_math as math
    from cupy._core import _routines_statistics as statistics

    kernels = {
        "sum": math.sum_auto_dtype, "sum_dtype": math._sum_keep_dtype, "prod": math.prod_auto_dtype,
        "prod_dtype": math._prod_keep_dtype, "max": statistics.amax, "min": statistics.amin,
        "all": logic.all, "any": logic.any,
    }
    table = {}
    for name, kernel in kernels.items():
        rows = {}
        for op in kernel._ops.ops:
            rows.setdefault(loop(op), "float" if op.routine[3] == "float" else "")
        table[name] = rows
    return table


def methods() -> dict:
    import cupy

    table = {}
    for name in sorted(dir(cupy.ndarray)):
        value = getattr(cupy.ndarray, name)
        if name.startswith("_") or type(value).__name__ == "getset_descriptor":
            continue
        if name == "reshape" or name == "transpose":  # Cython writes *shape like any other name
            text = "*shape, order=, copy=" if name == "reshape" else "*axes"
        else:
            text = documented_signature(name, value)
        table[name] = text
    return table


def build_table() -> dict:
    import cupy
    import cupyx.scipy.special

    return {
        "cupy": cupy.__version__,
        "modules": {
            "": names_of(cupy),
            "linalg": names_of(cupy.linalg),
            "fft": names_of(cupy.fft),
            "lib.stride_tricks": names_of(cupy.lib.stride_tricks),
            "special": names_of(cupyx.scipy.special),
        },
        "methods": methods(),
        "properties": sorted(
            n for n in dir(cupy.ndarray)
            if not n.startswith("_") and type(getattr(cupy.ndarray, n)).__name__ == "getset_descriptor"
        ),
        "reductions": reductions(),
    }


def text_of(value, depth: int = 4) -> str:
    """JSON with one line for each name."""
    if not isinstance(value, dict) or depth == 0:
        return json.dumps(value)
    inner = ",\n".join(f"{json.dumps(k)}: {text_of(value[k], depth - 1)}" for k in sorted(value))
    return "{\n" + inner + "\n}" if inner else "{}"


if __name__ == "__main__":
    TABLE.write_text(text_of(build_table()) + "\n", encoding="utf-8", newline="\n")
    print(f"wrote {TABLE}")
