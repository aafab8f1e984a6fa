"""The findings of watched steps, each with what was measured, where, why it matters and how to mend it."""
from __future__ import annotations

import linecache
import math

from ..terminal import count_of, figure

__all__ = ["DROWNED", "findings", "line_of", "standing"]

DROWNED = 1000  # times that a loss's gradients may be smaller than another's in the parameters they share
SEVERAL = 3  # steps skipped in a row, from which on the scaler does not find its scale
NAMED = 4  # parameters that a sentence names

# kind -> (why, how to mend)
TEXTS = {
    "zero_grad": ("backward() adds to .grad: the step follows a sum of old and new gradients",
                  "call optimizer.zero_grad() after each step or before the first backward() of the next"),
    "again": ("nothing new was learned: the weights move once more along the same gradients",
              "call backward() before each step()"),
    "no_gradient": ("a step without gradients changes nothing",
                    "call backward() before step(), on a loss that was computed from these parameters"),
    "cleared": ("what backward() computed was thrown away before the step could use it",
                "call zero_grad() after step() or before backward(), not between them"),
    "twice": ("its gradients are counted twice in this step, as with a doubled loss",
              "call backward() once for each forward, without retain_graph=True"),
    "survives": ("each graph keeps its nodes, and what they save, until nobody refers to it: memory grows with every "
                 "step", "keep loss.item() or loss.detach() instead of the tensor with its graph"),
    "never_reached": ("the optimizer never changes it, apart from weight decay and momentum",
                      "use it in the forward, mend the cut in the path to the loss, or freeze it with "
                      "requires_grad_(False)"),
    "not_in_optimizer": ("its gradients are computed and never used; optimizer.zero_grad() does not clear them either",
                         "add it to the optimizer, or freeze it with requires_grad_(False)"),
    "not_in_model": ("the optimizer trains tensors that the model does not use: its parameters were replaced after "
                     "the optimizer was made, or the optimizer is another model's",
                     "make the optimizer from model.parameters() of the model that is trained, after it is complete"),
    "twice_there": ("it is changed twice in a step", "leave it in one group of one optimizer"),
    "drowned": ("in the parameters that they share, the smaller one has next to no say",
                "weigh the losses so that their gradients are of like size"),
    "clip_scaled": ("the threshold is compared with gradients that are multiplied by the loss scale",
                    "call scaler.unscale_(optimizer) before clipping"),
    "clip_nothing": ("nothing is clipped: a generator such as model.parameters() that was kept is used up after one "
                     "pass", "pass model.parameters() anew each time, or a list"),
    "clip_empty": ("nothing is clipped", "clip after backward(), before step()"),
    "clip_late": ("the step has used these gradients already, unclipped", "clip between backward() and step()"),
    "step_scaled": ("the weights move along gradients that are multiplied by the loss scale",
                    "call scaler.step(optimizer) instead of optimizer.step()"),
    "mixed": ("gradients with and without the loss scale are added up",
              "call scaler.unscale_(optimizer) once, after the last backward() of the step"),
    "loss": ("its gradients are not finite either, and a step with them destroys the weights",
             "`with look.nan():` around the step names the operator that made it"),
    "lr_zero": ("the weights do not change", "set the group's lr, or look at the scheduler"),
    "eval": ("in eval mode dropout drops nothing and batch norm uses its running statistics, which do not learn",
             "call model.train() after validation, before the next step"),
    "train_forward": ("in train mode dropout drops and batch norm takes these batches into its running statistics",
                      "if it was validation: model.eval() before it, model.train() after it"),
    "skipped": ("the gradients had an infinity or NaN at this loss scale; the scaler lowers it and goes on",
                "nothing, where it happens once in a while, or first of all, until the scale is found"),
}
UNSCALED = ("a loss that is not made greater has gradients that are not finite: it is not the scale",
            "`with look.nan():` around a step names the first operator that makes NaN or Inf")
UNENDED = ("the scale was lowered again and again, and the gradients are still not finite",
           "watch more steps; where a scale of 1 does not help either, `with look.nan():` around a step names the "
           "first operator that makes NaN or Inf")


def findings(watch) -> list[dict]:
    """All findings, the pitfalls first, in the order in which they were seen. A clean loop has none."""
    found = [_of_fact(watch, fact) for fact in watch.facts.found.values()]
    found += _survivors(watch)
    found += _parameters(watch)
    found += _rates(watch)
    found += _drowned(watch)
    for name, count in watch.forward_only.items():
        if len(watch.models) == 1:
            found.append(_finding("train_forward", f"{name} ran {count_of(count, 'time')} under no_grad() in train "
                                  f"mode, with {_names([n for n, _ in watch.modes.values()])}", level="note",
                                  parameters=[n for n, _ in watch.modes.values()], count=count))
    return sorted(found, key=lambda f: f["level"] == "note")


def _finding(kind, what, line=None, steps=(), parameters=(), level="pitfall", **measured) -> dict:
    why, mend = TEXTS[kind]
    return {"kind": kind, "level": level, "what": what, "where": line_of(line), "why": why, "mend": mend,
            "steps": list(steps), "parameters": list(parameters), "measured": measured}


def line_of(frame) -> dict | None:
    if frame is None:
        return None
    file, line, function = frame
    return {"file": file, "number": line, "function": function, "source": linecache.getline(file, line).strip()}


def _names(names) -> str:
    names = list(names)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _steps(steps) -> str:
    """step 3; steps 2 to 20; steps 1, 5 and 3 more."""
    if len(steps) == 1:
        return f"step {steps[0]}"
    if steps == list(range(steps[0], steps[-1] + 1)):
        return f"steps {steps[0]} to {steps[-1]}"
    more = f" and {len(steps) - NAMED} more" if len(steps) > NAMED else ""
    return f"steps {', '.join(map(str, steps[:NAMED]))}{more}"


def _of_fact(watch, fact) -> dict:
    if fact.kind == "skipped":
        return _skipped(watch, fact)
    m, names, steps = fact.measured, list(fact.parameters), _steps(fact.steps)
    if fact.kind == "zero_grad":
        what = (f"zero_grad() is missing: {steps} used gradients of steps before once more, in "
                f"{count_of(len(names), 'parameter')} ({_names(names)}); in step {fact.steps[-1]} the norm of the old "
                f"ones was {figure(m['old'])}, of the new ones {figure(m['new'])}")
    elif fact.kind == "again":
        what = (f"{steps}: step() without a backward() since the one before: it used the same gradients (norm "
                f"{figure(m['norm'])}) as step {m['used']}")
    elif fact.kind == "no_gradient":
        what = f"{steps}: no parameter had a gradient: no backward() reached them before step()"
    elif fact.kind == "cleared":
        what = (f"{steps}: no parameter had a gradient: what backward() had sent (norm {figure(m['norm'])}) was "
                "cleared before step()")
    elif fact.kind == "twice":
        what = (f"{steps}: backward() ran twice from {_names(names)}, adding gradients of norm {figure(m['norm'])} "
                "each time")
    elif fact.kind == "twice_there":
        what = f"{_names(names)} is twice in an optimizer's groups"
    elif fact.kind == "clip_scaled":
        what = (f"{steps}: {m['function']} saw gradients multiplied by the loss scale {figure(m['scale'])}: norm "
                f"{figure(m['norm'])}, without it {figure(m['norm'] / m['scale'])}, against the threshold "
                f"{figure(m['limit'])}")
    elif fact.kind == "clip_nothing":
        what = f"before {steps}: {m['function']} was given no parameters"
    elif fact.kind == "clip_empty":
        what = f"before {steps}: {m['function']} found no gradients in {_names(names)}"
    elif fact.kind == "clip_late":
        what = f"before {steps}: {m['function']} clipped gradients that the step before had used"
    elif fact.kind == "step_scaled":
        what = (f"{steps} used gradients multiplied by the loss scale {figure(m['scale'])}: norm {figure(m['norm'])}, "
                f"without it {figure(m['norm'] / m['scale'])}")
    elif fact.kind == "mixed":
        what = (f"{steps}: gradients multiplied by the loss scale {figure(m['scale'])} were added to unscaled ones "
                f"(norm {figure(m['held'])}) in {_names(names)}")
    elif fact.kind == "loss":
        what = f"{steps}: the loss of `{_names(names)}` was {figure(m['value'])}"
    else:  # eval
        what = f"{steps}: the model was in eval mode in a training step, with {_names(names)}"
    return _finding(fact.kind, what, fact.line, fact.steps, names, **{
        k: line_of(v) if k.endswith("line") else v for k, v in m.items()})


def _skipped(watch, fact) -> dict:
    """Steps that the scaler skipped: a pitfall where the block ends among several in a row, or where the loss was not
    made greater; a scaler that begins high skips until it has found its scale."""
    runs = _runs(watch, fact.steps)
    longest, open_ = max(map(len, runs)), max([len(run) for run in runs if run[-1] is _last(watch, run)], default=0)
    scales = [s for run in runs for r in run if (s := _scale(r)) is not None]
    low = min(scales, default=None)
    what = f"{_steps(fact.steps)} skipped by the gradient scaler"
    what += f", {longest} in a row" if longest > 1 else ""
    if scales:
        what += f", at {_scales(scales)}"
    what += f"; not finite: {_names(fact.parameters)}" if fact.parameters else ""
    why, mend = TEXTS["skipped"]
    level = "pitfall"
    if low is not None and low <= 1:
        why, mend = UNSCALED
    elif open_ >= SEVERAL:
        why, mend = UNENDED
    else:
        level = "note"
    found = _finding("skipped", what, fact.line, fact.steps, fact.parameters, level, longest=longest, open=open_,
                     scales=scales)
    return found | {"why": why, "mend": mend}


def _runs(watch, steps) -> list[list]:
    """The skipped steps among `steps`, those in a row of one optimizer together."""
    runs = []
    for optimizer in {id(r.optimizer): r.optimizer for r in watch.rows}.values():
        before = None
        for r in watch.rows:
            if r.optimizer is optimizer:
                mine = r.skipped and r.number in steps
                if mine and before is not None:
                    before.append(r)
                elif mine:
                    runs.append(before := [r])
                else:
                    before = None
    return runs


def _last(watch, run):
    return next(r for r in reversed(watch.rows) if r.optimizer is run[0].optimizer)


def _scale(row) -> float | None:
    """The loss scale of a step."""
    return next((b.scale.value for b in row.backwards if b.scale is not None),
                None if row.scale is None else row.scale.value)


def _scales(scales) -> str:
    """the scale 4; the scales 1.68e+07 to 1.05e+06."""
    if len(set(scales)) == 1:
        return f"the scale {figure(scales[0])}"
    return f"the scales {figure(max(scales))} to {figure(min(scales))}"


def _survivors(watch) -> list[dict]:
    kept = watch.graphs.kept
    if kept is None:
        return []
    steps = sorted(set(kept.rows))
    held = f", held by {', '.join(kept.holder)}" if kept.holder else "; who holds them was not found"
    level = "pitfall" if len(steps) > 1 else "note"
    graphs = f"the graph of {_steps(steps)} was" if len(kept.rows) == 1 else \
        f"{len(kept.rows)} graphs of {_steps(steps)} were"
    what = f"{graphs} still there after the next step ({count_of(kept.nodes, 'node')}){held}"
    return [_finding("survives", what, kept.line, steps, [], level, graphs=len(kept.rows), nodes=kept.nodes,
                     holder=kept.holder)]


def standing(watch) -> dict[int, str]:
    """{id of a parameter: "trained" ("reached" where no step ran), "frozen", "never reached", "not in the optimizer",
    "not in the model", or "not known" where no backward() ran}."""
    covered: dict[int, set] = {}
    for o in watch.optimizers:
        for group in o.param_groups:
            for p in group["params"]:
                covered.setdefault(id(p), set()).add(id(o))
    found = {}
    for key, e in watch.entries.items():
        # a gradient from before the block tells of nothing that ran in it
        has = e.reached or any(n is not None for n in e.norms) or (watch.backwards and e.tensor._grad is not None)
        if not e.tensor.requires_grad:
            found[key] = "frozen"
        elif e.owner is not None and watch.optimizers and key not in covered:
            found[key] = "not in the optimizer"
        elif has or not watch.backwards:
            found[key] = "not known" if not has else "trained" if watch.rows else "reached"
        else:
            found[key] = "not in the model" if e.owner is None else "never reached"
    return found


def _parameters(watch) -> list[dict]:
    states = standing(watch)
    found = []
    backwards = len(watch.backwards)
    unused = [watch.entries[k] for k, s in states.items() if s == "not in the optimizer"]
    if unused:
        reached = [e.name for e in unused if e.reached]
        tail = f"; {len(reached)} of them got gradients that no step uses" if reached else ""
        found.append(_finding("not_in_optimizer", f"{count_of(len(unused), 'parameter')} of the model in no optimizer: "
                              f"{_names([e.name for e in unused])}{tail}", parameters=[e.name for e in unused],
                              reached=reached))
    if backwards:
        for why, group in _unreached(watch, [watch.entries[k] for k, s in states.items() if s == "never reached"]):
            found.append(_finding(
                "never_reached", f"{count_of(len(group), 'parameter')} without a gradient in {backwards:,} backward: "
                f"{_names([e.name for e in group])} ({why})", parameters=[e.name for e in group],
                backwards=backwards))
        foreign = [watch.entries[k] for k, s in states.items() if s == "not in the model"]
        if foreign:
            shapes = ", ".join(str(list(e.tensor.shape)) for e in foreign[:NAMED])
            names = [e.name for e in foreign]
            found.append(_finding("not_in_model", f"{count_of(len(foreign), 'parameter')} of the optimizer in no model "
                                  f"that is watched, reached by no backward(): {_names(names)} of shapes {shapes}",
                                  parameters=names))
    several: dict[int, set] = {}
    for o in watch.optimizers:
        if any(o is i for i in watch.inner):
            continue
        for group in o.param_groups:
            for p in group["params"]:
                several.setdefault(id(p), set()).add(id(o))
    both = [watch.entries[k].name for k, optimizers in several.items() if len(optimizers) > 1]
    if both:
        found.append(_finding("twice_there", f"{_names(both)} in two optimizers", parameters=both))
    return found


def _unreached(watch, entries):
    """(why, entries) by what the calls of their modules tell."""
    groups: dict[str, list] = {}
    for e in entries:
        name, module = e.owner
        without, with_ = watch.called.get(module, (0, 0))
        if with_:
            why = "the module was called; the path from it to the loss is cut: detach(), no_grad(), .item(), an " \
                  "integer or an unused result"
        elif without:
            why = "the module was called under no_grad() only"
        else:
            why = "the module was not called"
        groups.setdefault(why, []).append(e)
    return groups.items()


def _rates(watch) -> list[dict]:
    """Groups whose learning rate was zero in all steps, two or more: a warm-up may begin at zero."""
    found = []
    for o in watch.optimizers:
        rows = [r for r in watch.rows if r.optimizer is o]
        for g, group in enumerate(o.param_groups):
            lrs = [r.lrs[g] for r in rows if g < len(r.lrs)]
            if len(lrs) > 1 and all(lr == 0 for lr in lrs):
                names = [watch.entries[id(p)].name for p in group["params"] if id(p) in watch.entries]
                which = f"group {g} of {type(o).__name__}" if len(o.param_groups) > 1 else type(o).__name__
                found.append(_finding("lr_zero", f"lr was 0 in all {len(lrs)} steps of {which}: {_names(names)}",
                                      rows[-1].line, [r.number for r in rows], names))
    return found


def _drowned(watch) -> list[dict]:
    found = []
    for pair in watch.meetings.together():
        low, high = sorted(pair["losses"], key=lambda x: x["norm"])
        if all(math.isfinite(x["norm"]) for x in (low, high)) and high["norm"] > DROWNED * low["norm"]:
            times = f"{figure(high['norm'] / low['norm'])} times smaller than" if low["norm"] else "zero beside"
            found.append(_finding("drowned", f"the gradients of {low['name']} (norm {figure(low['norm'])}) are {times} "
                                  f"those of {high['name']} ({figure(high['norm'])}) in "
                                  f"{count_of(pair['parameters'], 'parameter')}", level="note",
                                  **{k: {**x, "line": line_of(x["line"])} for k, x in (("small", low),
                                                                                     ("large", high))}))
    return found
