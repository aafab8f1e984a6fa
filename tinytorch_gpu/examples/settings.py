"""A dataclass of settings becomes a command line: one field, one `--key value`, one line of `--help`."""

from __future__ import annotations

import argparse
import dataclasses
import math


class UserError(Exception):
    """Something the user can mend; its text is all that the command line prints."""


def option(default, text, *, gpu=None, least=None, most=None, later=False, choices=None):
    """A field of a settings class.

    `gpu` is the default on a GPU where it differs, `least` and `most` bound a number, and `later` marks what
    `--resume` may change: it does not touch the weights that come out.
    """
    about = {"text": text, "gpu": gpu, "least": least, "most": most, "later": later, "choices": choices}
    return dataclasses.field(default=default, metadata=about)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _kind(field):
    return type(field.default)


def parser_of(cls, prog: str) -> argparse.ArgumentParser:
    """The command line of the settings class `cls`; an option that is not given leaves no attribute behind."""
    parser = argparse.ArgumentParser(prog=prog, description=cls.__doc__, allow_abbrev=False)
    for field in dataclasses.fields(cls):
        about = field.metadata
        shown = "none" if field.default == "" else repr(field.default)
        text = f"{about['text']} (default: {shown}"
        text += f", on a GPU {about['gpu']})" if about["gpu"] is not None else ")"
        if _kind(field) is bool:
            parser.add_argument(_flag(field.name), action="store_true", default=argparse.SUPPRESS, help=about["text"])
        else:
            parser.add_argument(
                _flag(field.name), type=_kind(field), choices=about["choices"], default=argparse.SUPPRESS,
                help=text.replace("%", "%%"), metavar=None if about["choices"] else _kind(field).__name__.upper(),
            )  # fmt: skip
    return parser


def parse(cls, argv, prog: str) -> dict:
    """The options given in `argv`, as a dict; exits with 2 and the usage where argparse refuses them."""
    return vars(parser_of(cls, prog).parse_args(argv))


def fill(cls, given: dict, on_gpu: bool):
    """`cls(**given)` with the device's defaults for the rest. Raises UserError for a number out of its bounds."""
    values = dict(given)
    for field in dataclasses.fields(cls):
        if field.name not in values:
            gpu = field.metadata["gpu"]
            values[field.name] = gpu if on_gpu and gpu is not None else field.default
        check(field, values[field.name])
    return cls(**values)


def check(field, value) -> None:
    """Raises UserError where a number is not finite or out of the field's bounds."""
    least, most = field.metadata["least"], field.metadata["most"]
    low = least is not None and not value >= least
    high = most is not None and not value <= most
    if low or high or (isinstance(value, float) and not math.isfinite(value)):
        if most is None:
            wanted = f"at least {least}" if least is not None else "a finite number"
        else:
            wanted = f"from {least} to {most}"
        raise UserError(f"[settings] {_flag(field.name)} is {value}: give {wanted}")


def resumed(cls, saved: dict, given: dict):
    """The settings of a saved run with what `--resume` may change taken from `given`.

    Raises UserError where `given` asks for another value of a setting that shapes the weights.
    """
    values = {}
    for field in dataclasses.fields(cls):
        name = field.name
        if name not in saved and field.metadata["later"]:  # a run of an earlier version
            values[name] = given.get(name, field.default)
            check(field, values[name])
            continue
        if name not in saved:
            raise UserError(f"[resume] the checkpoint has no setting {name}: it was written by another version")
        values[name] = given.get(name, saved[name])
        if values[name] != saved[name] and not field.metadata["later"]:
            raise UserError(
                f"[resume] the run has {_flag(name)} {saved[name]}, the command line {values[name]}: "
                f"leave {_flag(name)} out, or start a new run without --resume"
            )
        check(field, values[name])
    return cls(**values)
