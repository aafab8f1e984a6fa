"""The options of `tinytorch-gpu kernels`, `kernel check` and `kernel bench`, and what they call."""
from __future__ import annotations

import argparse

__all__ = ["add", "run"]

STATUSES = """exit status of check: 0 no fault, 1 faults, 2 wrong usage or a source that does not compile, 3 not checked
(no g++ here, or the kernel uses what the emulator does not have)"""
ARGUMENTS = """a launch is put together from the kernel's parameters: arrays of SIZE elements, n and its kind SIZE,
floats 1, an output behind each pointer that is not const. What does not fit is given by --arg, or in the file:
    // check: scale T=float n=1000 x=[n] y=[n] by=0.5 grid=(n+255)//256 block=256
arrays: [shape], dtype[shape] or null, then :fill - a number, low..high, random, or out (nothing is written in it)"""


def add(commands) -> None:
    """Add the commands to a parser's subparsers."""
    table = commands.add_parser("kernels", help="the library's CUDA kernels: operators, registers, spills, GB/s",
                                allow_abbrev=False)
    table.add_argument("names", nargs="*", metavar="KERNEL", help="these kernels only, instance by instance")
    table.add_argument("--arch", metavar="sm_90", help="figures of one architecture")
    form = table.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything that is known, as JSON")
    form.add_argument("--markdown", action="store_true", help="the table of docs/kernels.md")

    kernel = commands.add_parser("kernel", help="check or time a CUDA kernel of your own", allow_abbrev=False)
    actions = kernel.add_subparsers(dest="action", metavar="check|bench", required=True)
    check = actions.add_parser(
        "check", help="run it on the CPU with every memory access checked; registers, spills, sectors, bank conflicts",
        allow_abbrev=False, description=f"{ARGUMENTS}\n\n{STATUSES}",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    bench = actions.add_parser("bench", help="time it on the GPU beside a copy", allow_abbrev=False,
                               description=ARGUMENTS, formatter_class=argparse.RawDescriptionHelpFormatter)
    for command in (check, bench):
        command.add_argument("file", metavar="FILE.cu", help="a file, or one of the library's such as rows.cu")
        command.add_argument("--name", action="append", default=[], metavar="KERNEL", help="this kernel of the file")
        command.add_argument("--type", action="append", default=[], metavar="T=float",
                             help="a type of the template; several with commas: T=float,__half")
        command.add_argument("--define", action="append", default=[], metavar="NAME=VALUE",
                             help="a constant of the template, else a macro")
        command.add_argument("--arg", action="append", default=[], metavar="NAME=VALUE",
                             help="a parameter: n=1000, x=float32[n,64], index=[n]:0..64, mask=null, y=[n]:random")
        command.add_argument("--grid", help="blocks: 4 or (n+255)//256 or 4,2")
        command.add_argument("--block", help="threads of a block (256): 128 or 32,8")
        command.add_argument("--shared", help="bytes of dynamic shared memory")
        command.add_argument("--size", action="append", default=[], type=_positive, metavar="N",
                             help="elements; may be given several times")
        command.add_argument("--seed", type=int, default=0, help="of the random values (0)")
    check.add_argument("--arch", action="append", default=[], metavar="sm_90", help="compile for these architectures")
    check.add_argument("--rtol", type=float, default=0.0, help="how far float results may differ between orders of "
                                                              "threads (0: not a bit)")
    bench.add_argument("--device", choices=("cuda", "sim"), default="cuda",
                       help="sim runs the command without a GPU; its times mean nothing")
    bench.add_argument("--bytes", help="bytes that the kernel has to move, for GB/s; else every array once")
    bench.add_argument("--repeat", type=_positive, default=50, help="timed launches (50)")


def _positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _pairs(options, given) -> dict[str, str]:
    found = {}
    for option, texts in zip(options, given):
        for text in texts:
            name, mark, value = text.partition("=")
            if not mark or not name.strip():
                raise ValueError(f"[kernel] {option} {text!r}: write NAME=VALUE")
            if name.strip() in found:
                raise ValueError(f"[kernel] {option} {text!r}: {name.strip()} is given twice")
            found[name.strip()] = value.strip()
    return found


def run(given) -> int:
    """Run a parsed command; the exit status."""
    from .screen import Screen

    screen = Screen()
    if given.command == "kernels":
        return _table(screen, given)
    from .launch import Wish

    values = _pairs(("--arg", "--type"), (given.arg, given.type))
    for name in ("grid", "block", "shared"):
        if (value := getattr(given, name)) is not None:
            values[name] = value
    wish = Wish(given.name, values, _pairs(("--define",), (given.define,)), given.size)
    if given.action == "bench":
        from .bench import bench

        return bench(screen, given.file, wish, given.device, given.repeat, given.bytes, given.seed)
    from .check import check

    return check(screen, given.file, wish, given.arch, given.seed, given.rtol)


def _table(screen, given) -> int:
    from . import table

    if given.arch and given.arch not in table.ARCHITECTURES:
        raise ValueError(f"[kernels] no figures of {given.arch}: there are those of {', '.join(table.ARCHITECTURES)}")
    if given.markdown:
        if given.names or given.arch:
            raise ValueError("[kernels] --markdown is the table of all kernels: leave names and --arch out")
        screen.lines(table.markdown().splitlines())
    else:
        table.show(screen, given.names, given.arch, given.json)
    return 0
