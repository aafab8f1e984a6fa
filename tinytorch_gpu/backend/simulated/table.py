"""The committed table of CuPy's names, signatures and type loops (written by `tests/conformance/make_table.py`)."""

from __future__ import annotations

import json
import pathlib

import ml_dtypes
import numpy as np

TABLE = json.loads(pathlib.Path(__file__).with_name("cupy_table.json").read_text(encoding="utf-8"))
MODULES = TABLE["modules"]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def dtype_of(code: str) -> np.dtype:
    return BFLOAT16 if code == "bf" else np.dtype(code)


def parse_loop(text: str) -> tuple[tuple, tuple]:
    """`f4,f4>f4` as dtypes of the inputs and of the outputs."""
    inputs, outputs = text.split(">")
    return tuple(map(dtype_of, inputs.split(","))), tuple(map(dtype_of, outputs.split(",")))


class Signature:
    """Which arguments CuPy takes: what NumPy takes and CuPy does not is a TypeError."""

    def __init__(self, name: str, text: str):
        self.name = name
        self.positional: list[str] = []
        self.required = 0
        self.allowed: set[str] = set()
        self.var_positional = self.var_keyword = False
        only = False
        for word in text.split(", ") if text else []:
            if word.startswith("**"):
                self.var_keyword = True
            elif word == "*":
                only = True
            elif word.startswith("*"):
                self.var_positional = only = True
            else:
                plain = word.rstrip("=")
                self.allowed.add(plain)
                if not only:
                    self.positional.append(plain)
                    self.required += plain == word

    def check(self, args: tuple, kwargs: dict) -> None:
        if not self.var_positional and len(args) > len(self.positional):
            takes = len(self.positional)
            raise TypeError(f"{self.name}() takes {takes} positional arguments but {len(args)} were given")
        if kwargs and not self.var_keyword:
            for key in kwargs:
                if key not in self.allowed:
                    raise TypeError(f"{self.name}() got an unexpected keyword argument '{key}'")
        if len(args) < self.required:
            for key in self.positional[len(args) : self.required]:
                if key not in kwargs:
                    raise TypeError(f"{self.name}() missing a required argument: '{key}'")

    def named(self, args: tuple, kwargs: dict) -> dict:
        """All arguments by CuPy's names (`*names` stay out of it)."""
        for key in self.positional[: len(args)]:
            if key in kwargs:
                raise TypeError(f"{self.name}() got multiple values for argument '{key}'")
        return dict(zip(self.positional, args, strict=False)) | kwargs
