"""Write the table of all kernels into docs/kernels.md. Run: python tests/make_kernel_table.py"""
from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "kernels.md"
TABLE = re.compile(r"^\| kernel \| file \|.*\n(?:\|.*\n)+", re.M)
sys.path.insert(0, str(ROOT))

from tinytorch_gpu.kernel_commands import table  # noqa: E402


def main() -> int:
    text = PAGE.read_text(encoding="utf-8")
    if len(TABLE.findall(text)) != 1:
        print(f"{PAGE} has no table that begins with | kernel | file |, or several", file=sys.stderr)
        return 1
    PAGE.write_text(TABLE.sub(lambda _: table.markdown(), text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
