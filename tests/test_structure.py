"""The laws of the layout: imports go down, cupy stays in backend/, files stay short, no exception is swallowed."""
from __future__ import annotations

import ast
from pathlib import Path

from lines import LONGEST, PACKAGE, floor_of, modules

NAME = PACKAGE.name
FILES = sorted(modules())


def imports(path: Path, source: str):
    """(line, dotted name) of every import in a file of the package, inside functions too; names made absolute.

    `from a import b` counts as a.b where that is a module, as a otherwise. `importlib.import_module` and
    `__import__` with a constant name count too.
    """
    package = (NAME, *path.parent.parts)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else ()
            base = ".".join((*base, *([node.module] if node.module else [])))
            for alias in node.names:
                deeper = f"{base}.{alias.name}"
                yield node.lineno, deeper if module_path(deeper) is not None else base
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                name = node.args[0].value
                yield node.lineno, ".".join(package) + name if name.startswith(".") else name


def module_path(dotted: str):
    """The file of one of the package's modules by its path inside the package, None for any other name."""
    parts = dotted.split(".")
    if parts[0] != NAME:
        return None
    inside = Path(*parts[1:])
    for candidate in ((inside.with_suffix(".py"),) if len(parts) > 1 else ()) + (inside / "__init__.py",):
        if (PACKAGE / candidate).is_file():
            return candidate
    return None


def upward(path: Path, source: str) -> list[str]:
    """The imports of a file that lead to a higher floor."""
    found = []
    for line, dotted in imports(path, source):
        target = module_path(dotted)
        if target is None or target == path:
            continue
        if target == Path("__init__.py") and path.parts[0] == "examples":
            continue  # training programs use the package as its users do
        if floor_of(target) > floor_of(path):
            found.append(f"{path.as_posix()}:{line} (floor {floor_of(path)}) imports {dotted} "
                         f"(floor {floor_of(target)})")
    return found


def cupy_imports(path: Path, source: str) -> list[str]:
    return [f"{path.as_posix()}:{line}" for line, dotted in imports(path, source)
            if dotted.split(".")[0] in ("cupy", "cupyx") and path.parts[0] != "backend"]


def swallowed(source: str) -> list[int]:
    """Lines of handlers of every exception that do nothing."""
    return [
        node.lineno for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException"))
        and all(isinstance(line, (ast.Pass, ast.Continue)) or
                (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)) for line in node.body)
    ]


def text(path: Path) -> str:
    return (PACKAGE / path).read_text(encoding="utf-8")


def test_every_file_has_a_floor():
    homeless = []
    for path in FILES:
        try:
            floor_of(path)
        except KeyError:
            homeless.append(path.as_posix())
    assert not homeless, f"add them to tests/lines.py and docs/design.md: {homeless}"


def test_imports_go_down():
    assert not (found := [line for path in FILES for line in upward(path, text(path))]), "\n".join(found)


def test_cupy_is_imported_in_the_backend_only():
    assert not (found := [line for path in FILES for line in cupy_imports(path, text(path))]), "\n".join(found)


def test_files_are_short():
    assert not (long := {path.as_posix(): n for path, n in modules().items() if n > LONGEST}), f"split by ideas: {long}"


def test_no_exception_is_swallowed():
    assert not (found := {path.as_posix(): lines for path in FILES if (lines := swallowed(text(path)))}), found


def test_the_checks_see_what_they_look_for():
    low = Path("backend/device.py")
    assert len(upward(low, "def f():\n    from .. import ops")) == 1
    assert len(upward(low, "from ..ops.shape import reshape\nimport tinytorch_gpu.optim")) == 2
    assert len(upward(low, "import importlib\nimportlib.import_module('tinytorch_gpu.cli')")) == 1
    assert not upward(Path("cli.py"), "from .backend import device\nimport numpy")
    assert cupy_imports(Path("ops/shape.py"), "def f():\n    import cupy.cuda") and not cupy_imports(low, "import cupy")
    assert swallowed("try:\n    f()\nexcept Exception:\n    pass") == [3]
    assert not swallowed("try:\n    f()\nexcept OSError:\n    pass")
