"""Print the files and lines of every floor; fail when a file is too long. Run: python tests/lines.py"""
from __future__ import annotations

import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "tinytorch_gpu"
LONGEST = 450
BUDGET = 2500  # floors 0 and 1 together; a figure to decide by, not a limit
CORE = {"__init__", "anomaly", "casting", "engine", "gradients", "hooks", "modes", "node", "operands", "operator",
        "pointwise", "saved", "views"}  # of autograd/; the rest is floor 3


def floor_of(path: Path) -> int:
    """The floor of a module, given by its path inside the package (docs/design.md). Raises: KeyError if it has none."""
    parts = path.with_suffix("").parts
    first = parts[0]
    if first == "autograd":
        return 1 if len(parts) > 1 and parts[1] in CORE else 3
    return {
        "_version": 0, "backend": 0, "tensor": 1, "ops": 2,
        "nn": 3, "optim": 3, "kernel": 3, "utils": 3, "io": 3, "container": 3, "cuda": 3, "linalg": 3, "testing": 3,
        "random": 3, "amp": 3, "numpy": 3, "special": 3, "interop": 3, "types": 3, "look": 4,
        "cli": 5, "environment": 5, "kernel_commands": 5, "look_commands": 5, "examples": 5, "compat": 5, "__main__": 5,
        "__init__": 5,
    }[first]


def modules() -> dict[Path, int]:
    """Lines of each Python file, by its path inside the package."""
    return {
        path.relative_to(PACKAGE): len(path.read_text(encoding="utf-8").splitlines())
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def main() -> int:
    found = modules()
    print("floor  files  lines  longest")
    for floor in sorted({floor_of(path) for path in found}):
        own = {path: n for path, n in found.items() if floor_of(path) == floor}
        longest = max(own, key=own.get)
        print(f"{floor:5}  {len(own):5}  {sum(own.values()):5}  {longest.as_posix()} ({own[longest]})")
    core = sum(n for path, n in found.items() if floor_of(path) <= 1)
    print(f"floors 0 and 1: {core} lines, budget {BUDGET}")
    long = {path: n for path, n in found.items() if n > LONGEST}
    for path, n in long.items():
        print(f"{path.as_posix()} has {n} lines, more than {LONGEST}: split it", file=sys.stderr)
    return 1 if long else 0


if __name__ == "__main__":
    sys.exit(main())
