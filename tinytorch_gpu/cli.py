"""The command `tinytorch-gpu`: `env`, `train gpt`, `train digits`, `look VIEW`, `kernels`, `kernel check|bench`."""
from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
import traceback

from . import kernel_commands, look_commands
from ._version import __version__

PROGRAMS = {
    "gpt": "train a small language model on the Python standard library's source, or on --data",
    "digits": "train a convolutional network on handwritten digits (needs the extra `data`)",
}
EXPECTED = (ArithmeticError, ImportError, LookupError, MemoryError, NotImplementedError, OSError, RuntimeError,
            TypeError, ValueError)


def _parser(command=None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tinytorch-gpu", allow_abbrev=False,
        description="PyTorch-style automatic differentiation on a GPU through CuPy, and on NumPy without one.",
        epilog="TINYTORCH_DEVICE=auto|cpu|sim|cuda chooses the device; TINYTORCH_TRACEBACK=1 shows where an error "
               "arose.",
    )
    parser.add_argument("--version", action="version", version=f"tinytorch-gpu {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("env", help="versions, devices, and what to install", allow_abbrev=False)
    train = commands.add_parser("train", help="train a model: gpt or digits", allow_abbrev=False)
    programs = train.add_subparsers(dest="program", metavar="PROGRAM", required=True)
    for name, text in PROGRAMS.items():
        # the program reads its own options, --help included
        programs.add_parser(name, help=text, add_help=False)
    look_commands.add(commands, views=command == "look")
    kernel_commands.add(commands)
    return parser


def _run(argv) -> int:
    if argv[:1] == ["train"] and argv[1:2] and argv[1] in PROGRAMS:
        return importlib.import_module(f".examples.{argv[1]}", __package__).main(argv[2:]) or 0
    parser = _parser(*argv[:1])
    given = parser.parse_args(argv)
    status = 0
    if given.command == "env":
        from .environment import report

        print(report())
    elif given.command == "look":
        status = look_commands.run(given)
    elif given.command in ("kernels", "kernel"):
        status = kernel_commands.run(given)
    else:
        parser.print_help()
    sys.stdout.flush()
    return status


def main(argv=None) -> int:
    """Run the command line and return its exit status: 0, 1 for an error, 2 for wrong usage, 130 after Ctrl-C.

    `kernel check` has statuses of its own: 1 is a fault of the kernel, and every error is 2.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        return _run(argv)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the reader went away (`| head`); Python's own flush at exit must find no broken pipe again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except EXPECTED as e:
        if os.environ.get("TINYTORCH_TRACEBACK", "0") not in ("", "0"):
            traceback.print_exc()
        else:
            text = " ".join(str(e).split()) or "no message"
            named = re.match(r"\[[a-zA-Z_]+\]", text)
            print(text if named else f"[tinytorch-gpu] {type(e).__name__}: {text}", file=sys.stderr)
        return 2 if argv[:1] == ["kernel"] else 1
