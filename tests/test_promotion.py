"""Type promotion against PyTorch's table (tests/data/promotion.json), which needs no PyTorch to read."""
from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu.backend import dtypes

_spec = importlib.util.spec_from_file_location(
    "make_promotion_table", Path(__file__).parent / "make_promotion_table.py")
maker = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(maker)

TABLE = json.loads(maker.PATH.read_text(encoding="utf-8"))
# There is no complex32 here: where PyTorch makes it of float16, the result is the next larger one.
OURS = {"complex32": "complex64"}


def operand(name):
    return maker.operand(name, lambda shape, d: np.ones(shape, dtypes.from_any(d).np))


@pytest.fixture(params=maker.DEFAULTS)
def default(request):
    before = dtypes.get_default_dtype()
    dtypes.set_default_dtype(request.param)
    yield request.param
    dtypes.set_default_dtype(before)


def test_the_table_is_whole():
    assert {d.name for d in dtypes.ALL} == set(maker.DTYPES)
    assert TABLE["operands"] == list(maker.OPERANDS)
    for name in maker.DEFAULTS:
        assert [len(row) for row in TABLE[name]] == [len(maker.OPERANDS)] * len(maker.OPERANDS)


@pytest.mark.parametrize("first", maker.OPERANDS)
def test_result_type(default, first):
    a = operand(first)
    row = TABLE[default][maker.OPERANDS.index(first)]
    expected = [OURS.get(name, name) for name in row]
    others = [operand(second) for second in maker.OPERANDS]
    got = dict(zip(maker.OPERANDS, (dtypes.result_type(a, b).name for b in others), strict=True))
    assert got == dict(zip(maker.OPERANDS, expected, strict=True))
    # the cached reading of two operands, cold and warm
    for _ in range(2):
        assert [dtypes.result_np(a, b) for b in others] == [dtypes.from_any(name).np for name in expected]


@pytest.mark.parametrize("first", maker.DTYPES)
def test_promote_types(first):
    row = TABLE["float32"][maker.OPERANDS.index(f"tensor {first}")]
    for second in maker.DTYPES:
        expected = row[maker.OPERANDS.index(f"tensor {second}")]
        assert dtypes.promote_types(first, second).name == OURS.get(expected, expected)


def test_complex32_appears_only_for_float16():
    for name in maker.DEFAULTS:
        for i, row in enumerate(TABLE[name]):
            for j, result in enumerate(row):
                if result == "complex32":
                    assert "float16" in (maker.OPERANDS[i].split()[1], maker.OPERANDS[j].split()[1])


def test_the_table_is_pytorchs():
    pytest.importorskip("torch", reason="makes the table with PyTorch")
    assert maker.table() == maker.PATH.read_text(encoding="utf-8")


def test_halves_overflow_without_a_warning():
    """To infinity, as in PyTorch; the suite makes an error of every warning."""
    x = tt.tensor([3e4, -1e5], dtype=tt.float32)
    assert x.half().tolist() == [30000.0, -float("inf")]
    assert (x[:1].half() * 4).item() == float("inf")
    assert (tt.tensor([3e38]) * 1).bfloat16().isfinite().all() and (tt.tensor([3.4e38])).bfloat16().isinf().all()
