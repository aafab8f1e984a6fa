"""The options of `tinytorch-gpu look`, and what it does with a program."""
from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

__all__ = ["add", "run"]

HELP = """PROGRAM is a script, run as Python would run it, or one of the examples `gpt` and `digits`, of which a few
steps run in a folder that goes away. The view is printed on stdout; what the program prints goes to stderr. The exit
status is the program's; 130 after Ctrl-C, 1 where there was nothing to look at."""
OPTIONS = ("--step", "--backward", "--stop", "--width", "--save", "--unfold", "--threshold", "--measure", "--name",
           "-m")
TRAINED = 20  # steps of an example for views that see all steps


def add(commands, views: bool) -> None:
    """Add the command to a parser's subparsers, its `views` only where asked for: importing them takes time."""
    command = commands.add_parser("look", help="look into a program: graph, memory, gradients and more",
                                  allow_abbrev=False, description=HELP)
    if views:
        _add_views(command)


def _add_views(command) -> None:
    from ..look import Report
    from .looks import LOOKS

    views = command.add_subparsers(dest="view", metavar="VIEW", required=True)
    for name, look in LOOKS.items():
        parser = views.add_parser(name, help=look.about, allow_abbrev=False, description=f"{look.about}. {HELP}",
                                  usage=f"tinytorch-gpu look {name} [options] PROGRAM [ARGUMENT ...]")
        first, last = look.steps
        shown = f"{first}-" if last is None else f"{first}" if first == last else f"{first}-{last}"
        parser.add_argument("--step", type=_steps, default=look.steps, metavar="N",
                            help=f"training steps to look at: 3, 2-5, or 2- for to the end ({shown}). A step ends with "
                                 "optimizer.step(), without an optimizer with backward()")
        if look.needs == "loss":
            parser.add_argument("--backward", type=_positive, default=1, metavar="K",
                                help="the K-th backward pass of the step (1)")
        parser.add_argument("--stop", action="store_true", help="end the program after these steps")
        _add_output(parser, look.kind)
        look.options(parser)
        parser.add_argument("-m", action="store_true", dest="module",
                            help="PROGRAM is a module or package, run as `python -m PROGRAM` would run it")
        parser.add_argument("program", metavar="PROGRAM")
        own = parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENT", help="the program's own")
        own.required = False  # an old argparse names it as missing
    report = views.add_parser("report", help="the page of a training run's folder", allow_abbrev=False,
                              description="curves, gradients, memory, profile, graph, settings and environment of a "
                                          "run in its folder; `tinytorch-gpu train gpt --report` notes them")
    _add_output(report, Report)
    report.add_argument("folder", metavar="FOLDER", help="runs/gpt-1")


def _add_output(parser, kind) -> None:
    parser.add_argument("--width", type=_width, metavar="COLUMNS", help="of the text (the terminal's)")
    parser.add_argument("--save", action="append", default=[], metavar="FILE",
                        help=f"write the view: {', '.join('.' + e for e in _endings(kind))}")


def _positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _width(text):
    if not text.isdecimal() or int(text) < 20:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 20")
    return int(text)


def _steps(text):
    match = re.fullmatch(r"([0-9]+)(?:(-)([0-9]*))?", text)
    if match is not None:
        first = int(match[1])
        last = int(match[3]) if match[3] else None if match[2] else first
        if first > 0 and (last is None or last >= first):
            return first, last
    raise argparse.ArgumentTypeError(f"{text!r}: write 3, 2-5 or 2-; the first step is 1")


def _endings(kind) -> list[str]:
    return kind.__new__(kind).endings()  # a view that has seen nothing: it knows its endings all the same


def _check_files(files, kind) -> None:
    """Before a program has run for long. Raises: ValueError, ImportError."""
    for name in files:
        path = Path(name)
        ending = path.suffix[1:].lower()
        if ending not in (endings := _endings(kind)):
            raise ValueError(f"[look] --save {name}: {kind.__name__} writes {', '.join('.' + e for e in endings)}")
        if not path.absolute().parent.is_dir():
            raise ValueError(f"[look] --save {name}: there is no folder {path.absolute().parent}")
        if ending == "png":
            try:
                import matplotlib  # noqa: F401
            except ImportError as e:
                raise ImportError("[look] --save: a .png needs matplotlib (pip install 'tinytorch-gpu[viz]'); .svg and "
                                  ".html need nothing") from e


def run(given) -> int:
    """Run a parsed command; the exit status."""
    from ..look import Report, report
    from .course import Course
    from .looks import LOOKS
    from .script import Enough, Program

    if given.view == "report":
        _check_files(given.save, Report)
        _output(report(given.folder), given)
        return 0

    look = LOOKS[given.view](given)
    _check_files(given.save, look.kind)
    program = Program(given.program, given.arguments, given.module)
    first, last = given.step
    stop = given.stop
    if program.example:
        last, stop = first + TRAINED - 1 if last is None else last, True
    course = Course(look, first, last, getattr(given, "backward", 1), stop)
    with program.place():
        try:
            with course:
                status = program.run()
        except Enough:
            status = 0
            print(f"[look] stopped {course.where()}", file=sys.stderr)
        except KeyboardInterrupt:  # outside of the program's own run
            status = 130
        if status == 2 and (own := [a for a in given.arguments if a.split("=")[0] in OPTIONS]):
            print(f"[look] {own[0]} stands behind {program.name}, whose option it is there: options of look stand "
                  "before it", file=sys.stderr)
        sys.stderr.flush()
        return _show(look, course, program, given, status)


def _show(look, course, program, given, status) -> int:
    """Print and save what was seen, be it all that was asked for or not."""
    from .subjects import named_tensors

    if course.failure is not None:
        raise course.failure
    if look.view is None and course.all_passes == 0 and status in (0, 130):
        look.over(named_tensors(course.model))
    if look.view is None or (course.ended < course.first - 1 and course.all_passes):
        if status in (0, 130):  # others say enough by themselves
            print(f"[look] {_nothing(look, course, program)}", file=sys.stderr)
        return status or 1
    _output(look.view, given)
    return status


def _output(view, given) -> None:
    failed = []
    for name in given.save:  # before the text, whose reader may go away: `| head`
        try:
            print(f"[look] {view.save(name)} is written", file=sys.stderr)
        except (ValueError, OSError, ImportError) as e:
            failed.append(e)
    view.print(width=given.width)
    if failed:
        raise failed[0]


def _nothing(look, course, program) -> str:
    """Why there is nothing to look at, and how to mend it."""
    name, ended = program.name, course.ended
    if ended < course.first - 1:
        return (f"{name} ended after {ended} training step{'s' if ended != 1 else ''}, step {course.first} was to be "
                "looked at: give a smaller --step")
    if look.needs == "loss" and course.all_passes == 0:
        named = ", or give the --name of a variable" if hasattr(look.given, "name") else ""
        return (f"{name} called neither backward() nor autograd.grad(), so there is no loss to look at: call one of "
                f"them on what is to be seen{named}")
    if look.needs == "model":
        return (f"{name} called no Module with gradients enabled, and no backward pass found an optimizer; this view "
                "needs one of them: put the parameters into an nn.Module, or give them to an optimizer")
    return (f"the steps that were to be looked at had no backward pass number {course.which}: choose another with "
            "--step and --backward")
