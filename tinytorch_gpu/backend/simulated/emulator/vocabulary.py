"""What kernels may use under the emulator. The rest still compiles on a GPU: it is named, and not checked."""

from __future__ import annotations

import re

OUTSIDE = {
    "inline PTX (asm)": r"\basm\s*(?:volatile\s*|__volatile__\s*)?\(|\b__asm__\b",
    "cooperative groups": r"\bcooperative_groups\b",
    "wmma": r"\bwmma\b|<mma\.h>|\bnvcuda\b",
    "CUB": r"<cub/|\bcub::",
    "__activemask": r"\b__activemask\b",
    "barriers and pipelines of libcu++": r"\bcuda::(?:barrier|pipeline|memcpy_async)\b|<cuda/(?:barrier|pipeline)>",
    "asynchronous copies": r"\b__pipeline_\w+|<cuda_pipeline",
    "textures and surfaces": r"\btex[123]D\w*\s*[<(]|\bcudaTextureObject_t\b|\bsurf[123]D\w*\s*[<(]",
    "launches from a kernel": r"<<<",
    "clusters": r"\b__cluster_dims__\b",
}
_OUTSIDE = {name: re.compile(pattern) for name, pattern in OUTSIDE.items()}
_NOISE = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)


class OutsideVocabulary(NotImplementedError):
    """A kernel uses what the emulator does not have: it is not checked. `what` names it, `line` is where."""

    def __init__(self, name: str, what: str, file: str, line: int):
        super().__init__(f"[{name}] {file}:{line} uses {what}, which the emulator does not have: not checked (it can "
                         "run on a GPU only)")
        self.what = what
        self.file = file
        self.line = line


def without_comments(text: str) -> str:
    """The source with comments and strings as blanks; lines stay where they are."""
    return _NOISE.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)


def first_outside(text: str) -> tuple[str, int] | None:
    """(what, line) of the first thing outside the vocabulary in a source, None without one."""
    code = without_comments(text)
    hits = [(match.start(), what) for what, pattern in _OUTSIDE.items() for match in pattern.finditer(code)]
    if not hits:
        return None
    place, what = min(hits)
    return what, code.count("\n", 0, place) + 1


def own_lines(text: str, system: tuple[str, ...]):
    """(file, line, text) of preprocessed lines that do not come from headers under the folders of `system`."""
    file, line = "", 0
    for row in text.splitlines():
        marker = re.match(r'# (\d+) "((?:\\.|[^"\\])*)"', row)
        if marker:
            line, file = int(marker[1]), marker[2]
            continue
        if not file.startswith((*system, "<")):
            yield file, line, row
        line += 1
