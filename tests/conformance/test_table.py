"""The committed table against importable CuPy (no GPU needed): names, signatures, and the type loops it picks."""

from __future__ import annotations

import inspect
import itertools

import make_table
import numpy as np
import pytest

from tinytorch_gpu.backend import simulated
from tinytorch_gpu.backend.simulated import overrides, reductions
from tinytorch_gpu.backend.simulated.table import BFLOAT16, MODULES, TABLE

xp = simulated.xp
DTYPES = [np.dtype(c) for c in "?bBhHiIqQefdFD"] + [BFLOAT16]


def importable_cupy():
    return pytest.importorskip("cupy", reason="CuPy is not installed: the table cannot be checked against it")


def test_committed_table_is_what_cupy_says():
    cupy = importable_cupy()
    if cupy.__version__.split(".")[:2] != TABLE["cupy"].split(".")[:2]:
        pytest.skip(f"the table is of CuPy {TABLE['cupy']}, installed is {cupy.__version__}")
    built = make_table.build_table()
    for part in ("modules", "methods", "properties", "reductions"):
        assert built[part] == TABLE[part], f"{part}: run tests/conformance/make_table.py"


def test_own_functions_have_cupys_signatures():
    text_of = make_table.signature_text
    compared = 0
    for module in (overrides, reductions):
        for name, function in vars(module).items():
            text = MODULES[""]["functions"].get(name)
            if text is not None and callable(function) and getattr(xp, name, None) is function:
                assert text_of(inspect.signature(function).parameters.values()) == text, name
                compared += 1
    assert compared > 50


def test_methods_have_cupys_signatures():
    text_of = make_table.signature_text
    missing = {n for n in TABLE["methods"] if not hasattr(simulated.ndarray, n)}
    assert missing == {"byteswap", "mdspan", "toDlpack", "tofile"}
    for name, text in TABLE["methods"].items():
        method = getattr(simulated.ndarray, name, None)
        if method is not None and "args" not in inspect.signature(method).parameters:
            assert text_of(list(inspect.signature(method).parameters.values())[1:]) == text, name


def test_type_loops_are_the_ones_cupy_picks():
    cupy = importable_cupy()
    weak = {bool: np.dtype(bool), int: np.dtype(np.int64), float: np.dtype(float), complex: np.dtype(complex)}
    compared = 0
    for name in MODULES[""]["ufuncs"]:
        mine, theirs = getattr(xp, name), getattr(cupy, name)
        for dtypes in itertools.product([*DTYPES, float], repeat=mine.nin):
            weaks = [d if d is float else None for d in dtypes]
            if any(weaks) and not any(isinstance(d, np.dtype) and d.kind in "fcV" for d in dtypes):
                continue  # CuPy decides before this function that the scalar is strong
            strong = tuple(weak.get(d, d) if isinstance(d, type) else d for d in dtypes)
            # the comparisons' own promotion concerns integers alone
            op = theirs._ops._guess_routine_from_in_types(strong, tuple(w or False for w in weaks))
            expected = None if op is None or op.error_func else (op.in_types, op.out_types)
            try:
                loop = mine._pick(strong, weaks)
                picked = loop.inputs, loop.outputs
            except TypeError:
                picked = None
            assert picked == expected, (name, dtypes)
            compared += 1
    assert compared > 10_000


def test_sort_kinds_are_the_ones_cupy_takes():
    cupy = importable_cupy()
    for kind in (None, "stable", "quicksort", "heapsort", "mergesort"):
        try:
            cupy.ndarray._check_kind_sort(kind)
        except ValueError:
            with pytest.raises(ValueError):
                overrides.check_sort_kind(kind)
        else:
            overrides.check_sort_kind(kind)


def test_sizes_of_the_table():
    """A table that lost its rows would let every other test here pass."""
    assert len(MODULES[""]["functions"]) > 250 and len(MODULES[""]["ufuncs"]) > 90
    assert len(MODULES["special"]["ufuncs"]) > 80 and len(TABLE["methods"]) > 50
