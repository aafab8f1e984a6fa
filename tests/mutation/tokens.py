"""Tokens of a CUDA source with its headers inlined; its regions: functions, structs and constants at file scope."""
from __future__ import annotations

import re
from dataclasses import dataclass, field

_PIECE = re.compile(
    r"(?P<space>(?:\s|//[^\n]*|/\*.*?\*/|^[ \t]*\#[ \t]*pragma[^\n]*)+)"
    r"|(?P<directive>^[ \t]*\#(?:\\\n|[^\n])*)"
    r"|(?P<string>\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])+')"
    r"|(?P<number>0[xX][0-9a-fA-F]+[uUlL]*|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[fFuUlL]*)"
    r"|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<mark><<=|>>=|\.\.\.|->|\+\+|--|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|<<|>>|::|.)",
    re.S | re.M)
_LINE = re.compile(r'\s*#\s*line\s+(\d+)\s+"([^"]*)"')
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/|^[ \t]*#[ \t]*pragma[^\n]*", re.S | re.M)


@dataclass
class Token:
    kind: str  # directive, string, number, name, mark
    text: str
    space: str  # before it, without comments
    file: str
    line: int
    column: int
    spaced: bool = False  # white space before and after: the sources' style marks binary operators so


@dataclass
class Region:
    """What stands at file scope under one name: a function, a struct, a constant, a specialization."""

    name: str
    file: str
    first: int  # token numbers
    last: int
    used: frozenset[str] = frozenset()
    kernel: bool = False


def tokenize(text: str) -> list[Token]:
    """The tokens; positions are those of the files that `#line` names."""
    found: list[Token] = []
    file, line, start, space = "", 1, 0, ""
    for match in _PIECE.finditer(text):
        kind, piece = match.lastgroup, match[0]
        if kind == "space":
            space += _COMMENT.sub(lambda m: "\n" * m[0].count("\n") or " ", piece)
        else:
            if found:
                found[-1].spaced = found[-1].spaced and bool(space)
            marker = _LINE.match(piece) if kind == "directive" else None
            parts = [">", ">"] if piece == ">>" and not space else [piece]
            for k, part in enumerate(parts):
                found.append(Token(kind, part, "" if k else space, file, line, match.start() - start + 1 + k,
                                   bool(space) and not k))
            space = ""
            if marker:
                line, file = int(marker[1]) - 1, marker[2]
        breaks = piece.count("\n")
        if breaks:
            line += breaks
            start = match.start() + piece.rindex("\n") + 1
    return found


OPEN = {"(": ")", "[": "]", "{": "}"}


def closing(tokens: list[Token], i: int) -> int:
    """The number of the bracket that closes the one at i."""
    depth = 0
    for j in range(i, len(tokens)):
        if tokens[j].kind == "mark":
            depth += (tokens[j].text in OPEN) - (tokens[j].text in OPEN.values())
            if not depth:
                return j
    raise ValueError(f"{tokens[i].file}:{tokens[i].line}: {tokens[i].text} is never closed")


def template_end(tokens: list[Token], i: int) -> int | None:
    """The number of the `>` that closes template arguments opened by a `<` at i; None where `<` is a comparison."""
    t = tokens[i]
    if t.text != "<" or i == 0 or tokens[i - 1].kind != "name" or (t.space and tokens[i - 1].text != "template"):
        return None
    j, depth = i, 0
    while j < len(tokens):
        text = tokens[j].text if tokens[j].kind == "mark" else ""
        if text in OPEN:
            j = closing(tokens, j)
        elif text == "<":
            depth += 1
        elif text == ">":
            depth -= 1
            if not depth:
                return j
        elif text in (";", "&&", "||"):
            return None
        j += 1
    return None


def regions(tokens: list[Token]) -> list[Region]:
    """The regions of a source, in their order; directives belong to none."""
    found, i = [], 0
    while i < len(tokens):
        t = tokens[i]
        if t.kind == "directive" or t.text in (";", "}"):
            i += 1
        elif t.text == "namespace":
            while tokens[i].text != "{":
                i += 1
            i += 1
        else:
            last, name = _region(tokens, i)
            words = frozenset(x.text for x in tokens[i:last + 1] if x.kind == "name")
            if name:
                found.append(Region(name, t.file, i, last, words - {name}, "__global__" in words))
            i = last + 1
    return found


def _region(tokens, i):
    """(last token, name) of the region that begins at i."""
    name, j = "", i
    words = []
    while True:
        t = tokens[j]
        if t.text == "<" and (end := template_end(tokens, j)) is not None:
            j = end
        elif t.text == "(":
            if not name and words and words[-1] not in ("__launch_bounds__", "__attribute__", "static_assert"):
                name = words[-1]
            j = closing(tokens, j)
        elif t.text == "{":
            j = closing(tokens, j)
            if not name:
                name = words[-1] if words else ""
            if words and words[0] in ("struct", "class", "enum", "union") or name and tokens[i].text == "struct":
                name = words[words.index("struct") + 1] if "struct" in words else name
                if j + 1 < len(tokens) and tokens[j + 1].text == ";":
                    j += 1
            elif "struct" in words:
                name = words[words.index("struct") + 1]
            return j, name
        elif t.text == "=":
            name = name or (words[-1] if words else "")
        elif t.text == ";":
            skip = {"static_assert", "using", "typedef", "extern", "template"}
            if words and words[0] in skip - {"extern", "template"} or "(" in {x.text for x in tokens[i:j]} and (
                    "=" not in {x.text for x in tokens[i:j]}):
                return j, ""  # a declaration without a body has nothing to mutate
            return j, name or (words[-1] if words else "")
        elif t.kind == "name":
            words.append(t.text)
        j += 1


@dataclass
class Closure:
    """Which regions lead to which: `below` what a name uses, `kernels` the kernels that use it; both transitive."""

    regions: list[Region]
    below: dict[str, frozenset[str]] = field(default_factory=dict)

    def __post_init__(self):
        uses: dict[str, set[str]] = {}
        names = {r.name for r in self.regions}
        for r in self.regions:
            uses.setdefault(r.name, set()).update(r.used & names)
        for name in uses:
            seen, todo = {name}, [name]
            while todo:
                for other in uses.get(todo.pop(), ()):
                    if other not in seen:
                        seen.add(other)
                        todo.append(other)
            self.below[name] = frozenset(seen)

    def kernels(self, name: str) -> list[str]:
        """The kernels that a region is part of."""
        return list(dict.fromkeys(r.name for r in self.regions if r.kernel and name in self.below[r.name]))
