"""All mutants of a source in one compile: each is chosen at run time by its number, so one build serves hundreds.

`a < b` becomes `a < tt_less<17>() < b`: the middle one takes `a` at the precedence of the operator and hands it to a
comparison that is `a <= b` while 17 is chosen. So no operand has to be found, and types stay what they were.
Conditions, `&&` and `||`, constants, statements and steps become expressions that ask for their number. What the
compiler must know (sizes of arrays, `constexpr`, `if constexpr`) cannot be chosen at run time: such a mutant is a
source of its own.

Not mutated: headers and arguments of templates, directives, static_assert, sizeof, __launch_bounds__, casts to integer
types (those of 64-bit indices show above 2^31 elements only).
"""
from __future__ import annotations

import re
from dataclasses import dataclass

from .tokens import OPEN, Region, Token, closing, regions, template_end, tokenize

BINARY = {  # operator -> (name of its type in the prelude, what the mutants make of it)
    "<": ("less", "<=", ">="), "<=": ("upto", "<", ">"), ">": ("more", ">=", "<="), ">=": ("from", ">", "<"),
    "==": ("same", "!="), "!=": ("other", "=="), "+": ("plus", "-"), "-": ("minus", "+"), "*": ("times", "/"),
    "/": ("over", "*"), "%": ("rest", "*"), "&": ("and", "|"), "|": ("or", "&"), "^": ("xor", "|"),
    "<<": ("left", ">>"), ">>": ("right", "<<"),
}
ASSIGNING = {
    "+=": ("add", "-="), "-=": ("sub", "+="), "*=": ("mul", "/="), "/=": ("div", "*="), "^=": ("xor", "|="),
    "|=": ("or", "&="), "&=": ("and", "|="), "<<=": ("left", ">>="), ">>=": ("right", "<<="), "%=": ("rest", "/="),
}
RELATIONS = {"<", "<=", ">", ">=", "==", "!="}
FUNCTIONS = {
    "fmaxf": "fminf", "fminf": "fmaxf", "max": "min", "min": "max", "rsqrtf": "sqrtf", "floorf": "ceilf",
    "__shfl_xor_sync": "__shfl_down_sync", "__shfl_down_sync": "__shfl_up_sync", "__shfl_up_sync": "__shfl_down_sync",
    "__any_sync": "__all_sync", "__all_sync": "__any_sync", "__syncthreads_or": "__syncthreads_and",
    "__syncthreads_and": "__syncthreads_or",
}
TYPES = {
    "const", "constexpr", "static", "extern", "__shared__", "unsigned", "signed", "long", "int", "float", "double",
    "bool", "char", "short", "auto", "volatile", "struct", "typedef", "using", "static_assert", "typename",
}
INDICES = {"threadIdx", "blockIdx", "blockDim", "gridDim"}


def _binary(symbol, name, mutants):
    changed = " : ".join(f"tt_is(N + {k}) ? p.a {m} b" for k, m in enumerate(mutants))
    return (f"template <int N> struct tt_{name} {{}};\ntemplate <class A, int N> struct tt_{name}_of {{ A a; }};\n"
            f"template <class A, int N> TT_TEMPLATE tt_{name}_of<A, N> operator{symbol}(A a, tt_{name}<N>) "
            "{ return {a}; }\n"
            f"template <class A, int N, class B> TT_TEMPLATE auto operator{symbol}(tt_{name}_of<A, N> p, B b) "
            f"-> decltype(p.a {symbol} b) {{ return {changed} : p.a {symbol} b; }}\n")


def _assigning(symbol, name, mutant):
    return (f"template <int N> struct tt_by_{name} {{}};\n"
            f"template <class B, int N> struct tt_by_{name}_of {{ B b; }};\n"
            f"template <int N, class B> TT_TEMPLATE tt_by_{name}_of<B, N> operator{symbol}(tt_by_{name}<N>, B b) "
            "{ return {b}; }\n"
            f"template <class A, class B, int N> TT_TEMPLATE A& operator{symbol}(A& a, tt_by_{name}_of<B, N> p) "
            f"{{ if (tt_is(N)) a {mutant} p.b; else a {symbol} p.b; return a; }}\n")


# The number of the chosen mutant looks like a constant to the compiler, so that the check build does not count reading
# it as an access of the kernel; it is written from outside, between launches.
PRELUDE = """#line 1 "mutants"
extern "C" { extern const int tt_mutant __attribute__((visibility("hidden"))); }
asm(".pushsection .data\\n.globl tt_mutant\\n.hidden tt_mutant\\n.balign 4\\ntt_mutant: .long 0\\n.popsection");
extern "C" __attribute__((visibility("default"))) int* tt_mutant_place() { return const_cast<int*>(&tt_mutant); }
TT_INLINE bool tt_is(int n) { return __builtin_expect(tt_mutant == n, 0); }
""" + "".join(_binary(s, n, m) for s, (n, *m) in BINARY.items()) + "".join(
    _assigning(s, n, m) for s, (n, m) in ASSIGNING.items())


@dataclass
class Mutant:
    """One change of a source. `number` chooses it in the instrumented source; `edits` make a source of its own."""

    kind: str
    region: str
    file: str
    line: int
    column: int
    change: str
    source: str  # the line it stands in
    number: int = 0
    edits: tuple[tuple[int, int, str], ...] = ()  # (first token, behind the last, new text)

    @property
    def place(self) -> str:
        """file:line:column:kind, for people; moves with the lines."""
        return f"{self.file}:{self.line}:{self.column}:{self.kind}"

    @property
    def key(self) -> str:
        """What it is, whichever line it stands on."""
        return f"{self.file} {self.region} | {self.source} | {self.change}"


class Instrumented:
    """A source with its headers inlined: its regions, its mutants, and its text with those of some regions inside."""

    def __init__(self, text: str):
        self.tokens: list[Token] = tokenize(text)
        self.regions: list[Region] = regions(self.tokens)
        self.mutants: list[Mutant] = []
        self.lines: dict[tuple[str, int], str] = {}
        for t in self.tokens:
            place = (t.file, t.line)
            self.lines[place] = self.lines.get(place, "") + (" " if t.space else "") + t.text
        self.next = 1
        self.region: Region | None = None
        self.texts = [self._region(r) for r in self.regions]
        seen: dict[str, int] = {}
        for m in self.mutants:  # the same change twice on one line: the second is #2
            seen[m.key] = seen.get(m.key, 0) + 1
            if seen[m.key] > 1:
                m.change += f" #{seen[m.key]}"

    def text(self, names) -> str:
        """The source with the mutants of the regions of these (file, name), each chosen by its number."""
        out, at = [PRELUDE], 0
        for region, text in zip(self.regions, self.texts):
            out.append(self.raw(at, region.first))
            inside = (region.file, region.name) in names
            out.append(text if inside else self.raw(region.first, region.last + 1))
            at = region.last + 1
        return "".join((*out, self.raw(at, len(self.tokens)), "\n"))

    def alone(self, mutant: Mutant) -> str:
        """The source with one mutant written into it."""
        out, at = [], 0
        for first, behind, new in sorted(mutant.edits):
            out += [self.raw(at, first), self.tokens[first].space or " ", new]
            at = behind
        return "".join((*out, self.raw(at, len(self.tokens)), "\n"))

    # making mutants

    def add(self, kind, i, change, edits=(), numbers=1) -> int:
        """A mutant at token i; its number (0 for one with a source of its own)."""
        t = self.tokens[i]
        source = " ".join(self.lines[t.file, t.line].split())
        number = 0 if edits else self.next
        self.mutants.append(Mutant(kind, self.region.name, t.file, t.line, t.column, change, source, number,
                                   tuple(edits)))
        if not edits:
            self.next += 1
        return number

    def raw(self, i, j) -> str:
        out = []
        for t in self.tokens[i:j]:
            out += ["\n", t.text.strip(), "\n"] if t.kind == "directive" else [t.space, t.text]
        return "".join(out)

    def is_(self, i, text) -> bool:
        return i < len(self.tokens) and self.tokens[i].text == text and self.tokens[i].kind in ("mark", "name")

    def split(self, i, j, marks):
        """(pieces, numbers of the marks between them): i to j cut at these marks outside of all brackets."""
        pieces, at, cuts = [], i, []
        k = i
        while k < j:
            t = self.tokens[k]
            if t.kind == "mark":
                if t.text in OPEN:
                    k = closing(self.tokens, k)
                elif (end := template_end(self.tokens, k)) is not None:
                    k = end
                elif t.text in marks:
                    pieces.append((at, k))
                    cuts.append(k)
                    at = k + 1
            k += 1
        return [*pieces, (at, j)], cuts

    # regions and statements

    def _region(self, region) -> str:
        self.region = region
        out, i = [], region.first
        words = {t.text for t in self.tokens[region.first:region.last + 1]}
        if not {"{"} & words or "constexpr" in {t.text for t in self.tokens[region.first:region.first + 3]}:
            self.fixed(region.first, region.last + 1)
            return self.raw(region.first, region.last + 1)
        while i <= region.last:
            if self.is_(i, "{") and self._is_body(i):
                end = closing(self.tokens, i)
                out.append(self.tokens[i].space + "{" + self.statements(i + 1, end) + self.tokens[end].space + "}")
                i = end + 1
            elif self.is_(i, "constexpr"):  # a member
                _, cuts = self.split(i, region.last, {";"})
                self.fixed(i, cuts[0])
                out.append(self.raw(i, cuts[0]))
                i = cuts[0]
            else:
                out.append(self.raw(i, i + 1))
                i += 1
        return "".join(out)

    def _is_body(self, i) -> bool:
        k = i - 1
        while self.tokens[k].text in ("const", "noexcept", "override"):
            k -= 1
        return self.tokens[k].text == ")"

    def statements(self, i, j) -> str:
        out = []
        while i < j:
            text, i = self.statement(i)
            out.append(text)
        return "".join(out)

    def _block(self, i):
        text, i = self.statement(i)
        return "{" + text + "}", i

    def statement(self, i):
        """(text, number of the token behind it)."""
        t, tokens = self.tokens[i], self.tokens
        if t.kind == "directive":
            return self.raw(i, i + 1), i + 1
        if t.text == ";":
            return ";", i + 1
        if t.text == "{":
            end = closing(tokens, i)
            return "{" + self.statements(i + 1, end) + tokens[end].space + "}", end + 1
        if t.text in ("if", "while", "switch"):
            return self._conditional(i)
        if t.text == "for":
            return self._for(i)
        if t.text == "do":
            body, i = self._block(i + 1)
            end = closing(tokens, i + 1)
            return f"{t.space}do {body} while ({self.condition(i + 2, end, loop=True)});", end + 2
        if t.text in ("case", "default"):
            _, cuts = self.split(i, len(tokens), {":"})
            return self.raw(i, cuts[0] + 1), cuts[0] + 1
        _, cuts = self.split(i, self.region.last, {";"})
        end = cuts[0]
        if t.text == "return":
            return t.space + "return" + (" " + self.comma(i + 1, end) if end > i + 1 else "") + ";", end + 1
        if self._declares(i):
            return self._declaration(i, end) + ";", end + 1
        name = "barrier" if t.text.startswith(("__sync", "__threadfence")) else "statement"
        n = self.add(name, i, f"drop {' '.join(self.raw(i, end).split())}")
        return f"{{ if (!tt_is({n})) {{ {self.comma(i, end)}; }} }}", end + 1

    def _conditional(self, i):
        word = self.tokens[i]
        fixed = self.is_(i + 1, "constexpr")
        start = i + 1 + fixed
        end = closing(self.tokens, start)
        if fixed:
            for new in ("true", "false"):
                old = " ".join(self.raw(start + 1, end).split())
                self.add("condition", start + 1, f"{old} -> {new}", [(start + 1, end, new)])
            head = f"{word.space}if constexpr ({self.raw(start + 1, end)})"
        elif word.text == "switch":
            head = f"{word.space}switch ({self.comma(start + 1, end)})"
        else:
            head = f"{word.space}{word.text} ({self.condition(start + 1, end, loop=word.text == 'while')})"
        body, i = self._block(end + 1)
        if word.text == "if" and self.is_(i, "else"):
            other, i = self._block(i + 1)
            return f"{head} {body} else {other}", i
        return f"{head} {body}", i

    def _for(self, i):
        end = closing(self.tokens, i + 1)
        pieces, cuts = self.split(i + 2, end, {";"})
        if len(cuts) != 2:  # over a range
            body, behind = self._block(end + 1)
            return self.raw(i, end + 1) + body, behind
        first, condition, step = pieces
        start = ""
        if first[0] < first[1]:
            start = self._declaration(*first) if self._declares(first[0]) else self.comma(*first)
        test = self.condition(*condition, loop=True) if condition[0] < condition[1] else ""
        body, behind = self._block(end + 1)
        return f"{self.tokens[i].space}for ({start}; {test}; {self._step(*step)}) {body}", behind

    def _step(self, i, j):
        pieces, _ = self.split(i, j, {","})
        out = []
        for a, b in pieces:
            marks = [t.text for t in self.tokens[a:b] if t.text in ("++", "--")]
            if len(marks) == 1 and b - a == 2:
                name = self.raw(a, b).replace(marks[0], "").strip()
                n = self.add("step", a, f"{marks[0]}{name} -> {name} {marks[0][0]}= 2")
                out.append(f"(tt_is({n}) ? ({name} {marks[0][0]}= 2) : {marks[0]}{name})")
            else:
                out.append(self.assign(a, b) if a < b else "")
        return ",".join(out)

    def _declares(self, i) -> bool:
        t = self.tokens[i]
        if t.text in TYPES:
            return True
        if t.kind != "name":
            return False
        k = i + 1
        while self.is_(k, "::") or self.is_(k - 1, "::"):
            k += 1
        if (end := template_end(self.tokens, k)) is not None:
            k = end + 1
        if self.tokens[k].text in ("*", "&") and not self.tokens[k].spaced:
            k += 1
        return self.tokens[k].kind == "name"

    def _declaration(self, i, end) -> str:
        words = {t.text for t in self.tokens[i:end]}
        if words & {"static_assert", "using", "typedef", "extern"}:
            return self.raw(i, end)
        if "constexpr" in words:
            self.fixed(i, end)
            return self.raw(i, end)
        out, k = [], i
        while k < end:
            t = self.tokens[k]
            if t.text == "=" and t.kind == "mark":
                pieces, _ = self.split(k + 1, end, {","})
                behind = pieces[0][1]
                out += [t.space, "=", self.assign(k + 1, behind)]
                k = behind
            elif t.text == "[":
                close = closing(self.tokens, k)
                self._size(k + 1, close)
                out.append(self.raw(k, close + 1))
                k = close + 1
            elif (stop := template_end(self.tokens, k)) is not None:
                out.append(self.raw(k, stop + 1))
                k = stop + 1
            else:
                out.append(self.raw(k, k + 1))
                k += 1
        return "".join(out)

    # what the compiler must know

    def _size(self, i, j):
        """The size of an array: one element less."""
        if j > i:
            old = " ".join(self.raw(i, j).split())
            self.add("size", i, f"[{old}] -> [{old} - 1]", [(i, j, f"({old}) - 1")])

    def fixed(self, i, j):
        """Mutants with a source of their own: constants and operators of a constexpr declaration."""
        started = False
        k = i
        while k < j:
            t = self.tokens[k]
            if (end := template_end(self.tokens, k)) is not None:
                k = end
            elif t.text == "sizeof":
                k = closing(self.tokens, k + 1)
            elif t.text == "=":
                started = True
            elif started and t.kind == "number":
                for new in _changed(t.text):
                    self.add("constant", k, f"{t.text} -> {new}", [(k, k + 1, new)])
            elif started and t.spaced and t.text in BINARY:
                for new in BINARY[t.text][1:]:
                    self.add(_kind(t.text), k, f"{t.text} -> {new}", [(k, k + 1, new)])
            k += 1

    # expressions

    def comma(self, i, j) -> str:
        pieces, _ = self.split(i, j, {","})
        return ",".join(self.assign(a, b) for a, b in pieces if a < b)

    def assign(self, i, j) -> str:
        if self.is_(i, "{"):
            end = closing(self.tokens, i)
            return "{" + self.comma(i + 1, end) + "}"
        _, cuts = self.split(i, j, {"=", *ASSIGNING})
        if not cuts:
            return self.ternary(i, j)
        at, op = cuts[0], self.tokens[cuts[0]].text
        left = self.flat(i, at)
        if op == "=":
            return f"{left} = {self.assign(at + 1, j)}"
        name, mutant = ASSIGNING[op]
        n = self.add("arithmetic", at, f"{op} -> {mutant}")
        return f"{left} {op} tt_by_{name}<{n}>() {op} ({self.assign(at + 1, j)})"

    def ternary(self, i, j) -> str:
        _, marks = self.split(i, j, {"?", ":"})
        if not marks:
            return self.logic(i, j)
        depth = 0
        for k in marks:
            depth += 1 if self.tokens[k].text == "?" else -1
            if not depth:
                colon = k
                break
        first = marks[0]
        return (f" (({self.condition(i, first)}) ? {self.ternary(first + 1, colon)} : "
                f"{self.ternary(colon + 1, j)})")

    def condition(self, i, j, loop=False) -> str:
        """A condition that may become true or false; that of a loop false only."""
        old = " ".join(self.raw(i, j).split())
        asked = f"tt_is({self.add('condition', i, f'{old} -> false')}) ? false : "
        if not loop:
            asked = f"tt_is({self.add('condition', i, f'{old} -> true')}) ? true : {asked}"
        return f"{asked}static_cast<bool>({self.assign(i, j)})"

    def logic(self, i, j) -> str:
        for mark in ("||", "&&"):
            pieces, cuts = self.split(i, j, {mark})
            if cuts:
                break
        else:
            return self.flat(i, j)
        text, neutral = "", "false" if mark == "||" else "true"
        for k, (a, b) in enumerate(pieces):
            old = " ".join(self.raw(a, b).split())
            drop = self.add("operand", a, f"{mark} without {old}")
            piece = f"(tt_is({drop}) ? {neutral} : static_cast<bool>({self.logic(a, b)}))"
            if not k:
                text = piece
                continue
            n = self.add("logic", cuts[k - 1], f"{mark} -> {'&&' if mark == '||' else '||'}")
            turn = "!" if mark == "||" else ""
            text = f"(({text}) ? {turn}tt_is({n}) || {piece} : {turn}tt_is({n}) && {piece})"
        return f" {text}"

    def flat(self, i, j) -> str:
        out = []
        while i < j:
            text, i = self.term(i, j)
            out.append(text)
        return "".join(out)

    def term(self, i, j):
        """(text, next token) of what begins at i: an operator, a bracket, a constant, a name with what follows it."""
        t, tokens = self.tokens[i], self.tokens
        before = tokens[i - 1]
        if t.kind == "number":
            return t.space + self._constant(i, [*_changed(t.text)]), i + 1
        if t.kind == "name":
            return self._name(i)
        if t.kind != "mark":
            return self.raw(i, i + 1), i + 1
        if t.text in "([":
            end = closing(tokens, i)
            if t.text == "[" and before.kind != "name" and before.text not in (")", "]"):  # a lambda
                return self.raw(i, j), j
            return t.space + t.text + self.comma(i + 1, end) + tokens[end].text, end + 1
        if (end := template_end(tokens, i)) is not None:
            return self.raw(i, end + 1), end + 1
        if t.spaced and t.text in BINARY and not self._unary(i):
            name, *mutants = BINARY[t.text]
            numbers = [self.add(_kind(t.text), i, f"{t.text} -> {m}") for m in mutants]
            return f" {t.text} tt_{name}<{numbers[0]}>() {t.text} ", i + 1
        if t.text in ("-", "!", "++", "--") and self._unary(i):
            end = self._operand_end(i + 1)
            inner = self.flat(i + 1, end)
            if t.text in ("++", "--"):
                other = "--" if t.text == "++" else "++"
                n = self.add("step", i, f"{t.text} -> {other}")
                return f"{t.space}(tt_is({n}) ? {other}{inner} : {t.text}{inner})", end
            n = self.add("sign" if t.text == "-" else "condition", i, f"{t.text}{self.raw(i + 1, end).strip()} without "
                         f"{t.text}")
            plain = f"({inner})" if t.text == "-" else f"static_cast<bool>({inner})"
            return f"{t.space}(tt_is({n}) ? {plain} : {t.text}({inner}))", end
        return self.raw(i, i + 1), i + 1

    def _unary(self, i) -> bool:
        before = self.tokens[i - 1]
        if before.kind in ("number", "string") or before.text in (")", "]"):
            return False
        return before.kind != "name" or before.text in ("return", "case")

    def _operand_end(self, i) -> int:
        while self.tokens[i].text in ("-", "!", "*", "&", "+", "~", "++", "--"):
            i += 1
        i = closing(self.tokens, i) + 1 if self.tokens[i].text in OPEN else i + 1
        while True:
            if self.tokens[i].text in ("(", "["):
                i = closing(self.tokens, i) + 1
            elif self.tokens[i].text in (".", "->", "::"):
                i += 2
            elif (end := template_end(self.tokens, i)) is not None:
                i = end + 1
            else:
                return i

    def _constant(self, i, changed) -> str:
        old = self.tokens[i].text
        asked = "".join(f"tt_is({self.add('constant', i, f'{old} -> {new}')}) ? static_cast<decltype({old})>({new}) : "
                        for new in changed)
        return f"({asked}{old})"

    def _name(self, i):
        t, tokens = self.tokens[i], self.tokens
        if t.text in ("true", "false"):
            return t.space + self._constant(i, ["false" if t.text == "true" else "true"]), i + 1
        if t.text == "sizeof":
            end = closing(tokens, i + 1)
            return self.raw(i, end + 1), end + 1
        if t.text in INDICES and self.is_(i + 1, ".") and tokens[i + 2].text in "xyz":
            axis = tokens[i + 2].text
            other = "y" if axis == "x" else "x"
            n = self.add("axis", i, f"{t.text}.{axis} -> {t.text}.{other}")
            return f"{t.space}(tt_is({n}) ? {t.text}.{other} : {t.text}.{axis})", i + 3
        if t.text == "static_cast" and (end := template_end(tokens, i + 1)) is not None:
            if tokens[end - 1].text in ("float", "double") and end == i + 3:
                # the type would stay with a choice at run time
                self.add("cast", i, f"without static_cast<{tokens[end - 1].text}>", [(i, end + 1, "")])
            return self.raw(i, end + 1), end + 1
        if t.text in FUNCTIONS and self.is_(i + 1, "("):
            other, end = FUNCTIONS[t.text], closing(tokens, i + 1)
            pieces, _ = self.split(i + 2, end, {","})
            inner = ",".join(self.assign(a, b) for a, b in pieces)
            # the arguments stand in the text once for each choice, so that a chosen mutant inside is one in each
            asked = f"tt_is({self.add('shuffle' if 'shfl' in t.text else 'function', i, f'{t.text} -> {other}')}) ? " \
                    f"{other}({inner}) : "
            if "shfl" in t.text:
                swapped = [pieces[0], pieces[2], pieces[1], *pieces[3:]]
                text = ",".join(self.raw(a, b) for a, b in swapped)
                asked += f"tt_is({self.add('shuffle', i, 'value and distance swapped')}) ? {t.text}({text}) : "
            return f"{t.space}({asked}{t.text}({inner}))", end + 1
        return self.raw(i, i + 1), i + 1


def _kind(operator) -> str:
    return "relation" if operator in RELATIONS else "arithmetic"


def _changed(number: str):
    """What mutants make of a constant: 0 and 1 each other, other integers one less and one more, floats 1% more."""
    plain = re.fullmatch(r"(0[xX][0-9a-fA-F]+|\d+)([uUlL]*)", number)
    if plain is None:
        digits, suffix = re.fullmatch(r"(.*?)([fF]?)", number).groups()
        value = float(digits)
        yield f"{'1.' if value == 0 else '0.' if value == 1 else repr(value * 1.01)}{suffix}"
        return
    value, suffix = int(plain[1], 0), plain[2]
    base = hex if plain[1][:2].lower() == "0x" else str
    if value in (0, 1):
        yield f"{1 - value}{suffix}"
        return
    yield base(value - 1) + suffix
    if value not in (0xFFFFFFFF, 0x7FFFFFFF):
        yield base(value + 1) + suffix
