"""A user's program run as Python would run it: as __main__, with its own arguments, its folder first on the path."""
from __future__ import annotations

import builtins
import contextlib
import importlib
import importlib.machinery
import importlib.util
import io
import os
import sys
import tempfile
import types
from importlib.machinery import PathFinder
from pathlib import Path

__all__ = ["EXAMPLES", "Enough", "Program"]

EXAMPLES = ("gpt", "digits")
_MISSING = "[look] there is no module {} to run in {}: -m takes what `python -m` takes"
HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep


class Enough(BaseException):
    """What was asked for has been seen. Not an Exception: a program that catches those ends too."""


class Program:
    """A script, one of the examples by its name, or a module. Raises: ValueError where there is no such file."""

    def __init__(self, name: str, args: list[str], module: bool = False):
        self.name, self.args, self.module = name, list(args), module
        self.path = os.path.abspath(name)
        self.example = name in EXAMPLES and not module
        if module and PathFinder.find_spec(name.split(".")[0], [os.getcwd(), *sys.path]) is None:
            raise ValueError(_MISSING.format(name, os.getcwd()))
        if self.example or module:
            return
        if not os.path.exists(name):
            raise ValueError(f"[look] {name} is not there: give a script, or one of the examples "
                             f"{' and '.join(EXAMPLES)}")
        if os.path.isdir(name):
            raise ValueError(f"[look] {name} is a folder: give the script in it")

    @contextlib.contextmanager
    def place(self):
        """Around the run and what looks at its variables: __main__, sys.argv and sys.path are the program's."""
        before = sys.modules["__main__"], sys.argv, list(sys.path)
        with contextlib.ExitStack() as stack:
            if self.example:
                if not any(a == "--resume" or a.split("=")[0] == "--out" for a in self.args):
                    folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
                    self.args += ["--out", str(Path(folder) / self.name)]
            elif self.module:
                sys.path[0:0] = [os.getcwd()]
                sys.argv = ["-m", *self.args]  # for packages that are imported on the way
                main = sys.modules["__main__"] = types.ModuleType("__main__")
                main.__dict__.update(__builtins__=builtins)
            else:
                main = sys.modules["__main__"] = types.ModuleType("__main__")
                main.__dict__.update(__file__=self.path, __builtins__=builtins, __cached__=None, __spec__=None,
                                     __loader__=importlib.machinery.SourceFileLoader("__main__", self.path))
                sys.argv = [self.name, *self.args]
                sys.path[0:0] = [os.path.dirname(self.path)]
            try:
                yield
            finally:
                sys.modules["__main__"], sys.argv, sys.path[:] = before

    def run(self) -> int:
        """Run it inside `place()`; its exit status: what it asked for, 1 after an error, which is printed as Python
        prints it, 130 after Ctrl-C. What it prints goes to stderr. Enough passes through."""
        with contextlib.redirect_stdout(sys.stderr):
            try:
                if self.example:
                    return importlib.import_module(f"..examples.{self.name}", __package__).main(self.args) or 0
                exec(self._code(), sys.modules["__main__"].__dict__)
                return 0
            except SystemExit as e:
                return _status(e.code)
            except KeyboardInterrupt:
                return 130
            except Exception as e:
                e.__traceback__ = _own(e.__traceback__)
                sys.excepthook(type(e), e, e.__traceback__)
                return 1


    def _code(self):
        """The program as code; what __main__ says of itself is a module's own."""
        if not self.module:
            with io.open_code(self.path) as file:
                return compile(file.read(), self.path, "exec")
        spec = _spec(self.name)
        code = None if spec is None or spec.loader is None else spec.loader.get_code(spec.name)
        if code is None:
            print(_MISSING.format(self.name, os.getcwd()), file=sys.stderr)
            raise SystemExit(1)
        sys.argv[0] = spec.origin
        sys.modules["__main__"].__dict__.update(
            __file__=spec.origin, __cached__=spec.cached, __spec__=spec, __loader__=spec.loader,
            __package__=spec.parent)
        return code


def _spec(name):
    """Of a module, of a package's __main__; None where there is none."""
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            return importlib.util.find_spec(f"{name}.__main__")
    except ModuleNotFoundError as e:  # a package on the way; not what it imports
        if e.name is not None and f"{name}.".startswith(f"{e.name}."):
            return None
        raise
    return spec


def _status(code) -> int:
    if code is None or isinstance(code, int):
        return int(code or 0)
    print(code, file=sys.stderr)
    return 1


def _own(trace):
    """A traceback without the frames that led to the program."""
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(HERE):
        trace = trace.tb_next
    return trace
