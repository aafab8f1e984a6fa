"""Write tests/data/promotion.json, PyTorch's type promotion: `python tests/make_promotion_table.py` (needs torch).

The operands are every dtype as a tensor with dimensions and as a 0-d tensor, and the four Python scalars; for each
default dtype, entry [i][j] is torch.result_type(operands[i], operands[j]).
"""
from __future__ import annotations

import json
from pathlib import Path

PATH = Path(__file__).parent / "data" / "promotion.json"
DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
          "complex64", "complex128")
SCALARS = {"bool": True, "int": 1, "float": 1.0, "complex": 1j}
OPERANDS = (*(f"tensor {d}" for d in DTYPES), *(f"0-d {d}" for d in DTYPES), *(f"scalar {s}" for s in SCALARS))
DEFAULTS = ("float32", "float64")


def operand(name, make):
    """The operand of a name; `make(shape, dtype name)` makes the tensors."""
    form, kind = name.split()
    if form == "scalar":
        return SCALARS[kind]
    return make((2,) if form == "tensor" else (), kind)


def table() -> str:
    """The file's text, by PyTorch."""
    import torch

    before = torch.get_default_dtype()
    values = [operand(name, lambda shape, d: torch.ones(shape, dtype=getattr(torch, d))) for name in OPERANDS]
    lines = []
    try:
        for default in DEFAULTS:
            torch.set_default_dtype(getattr(torch, default))
            rows = ([str(torch.result_type(a, b)).removeprefix("torch.") for b in values] for a in values)
            body = ",\n".join("  " + json.dumps(row) for row in rows)
            lines.append(f'"{default}": [\n{body}\n]')
    finally:
        torch.set_default_dtype(before)
    return '{"operands": ' + json.dumps(OPERANDS) + ",\n" + ",\n".join(lines) + "}\n"


if __name__ == "__main__":
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(table(), encoding="utf-8", newline="\n")
    print(f"wrote {PATH}")
