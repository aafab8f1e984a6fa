"""What the models and optimizers of watched steps are called: as the program calls them, else by their classes."""
from __future__ import annotations

__all__ = ["labels", "named", "prefix_of"]


def named(given, kind, what) -> dict:
    """{name: object} of one object of class `kind`, a list or a dictionary; objects of a list by their classes.

    Raises: TypeError for what is none of these, and for a name that is no string.
    """
    article = "an" if what[0] in "AEIOU" else "a"
    if isinstance(given, dict):
        for name in given:
            if not isinstance(name, str):
                raise TypeError(f"[step] names of a dictionary must be strings, got {name!r}")
        several = list(given.values())
    else:
        several = list(given) if isinstance(given, (list, tuple)) else [given]
    for value in several:
        if not isinstance(value, kind):
            raise TypeError(f"[step] expected {article} {what}, a list or a dictionary of them, got "
                            f"{type(value).__name__}")
    if isinstance(given, dict):
        return dict(given)
    return dict(zip(_numbered([type(value).__name__ for value in several]), several))


def prefix_of(name, models) -> str:
    """What stands before the names of a model's parts, where there are several models."""
    if len(models) == 1:
        return ""
    return f"{name}: " if " " in name else f"{name}."


def labels(optimizers, names, models) -> list[str]:
    """What each optimizer is called. `names`: {id: name} of those that have one; `models`: {name: Module}.

    og (Adam); without a name Adam, of several the model that it steps, Adam of Net, else Adam 2.
    """
    kinds = [type(o).__name__ for o in optimizers]
    stepped = []
    for o, kind in zip(optimizers, kinds):
        ids = {id(p) for group in o.param_groups for p in group["params"]}
        own = [name for name, m in models.items() if any(id(p) in ids for p in m.parameters())]
        stepped.append(f"{kind} of {own[0]}" if len(own) == 1 and len(models) > 1 else "")
    found = []
    for o, kind, of, numbered in zip(optimizers, kinds, stepped, _numbered(kinds)):
        if id(o) in names:
            found.append(f"{names[id(o)]} ({kind})")
        elif kinds.count(kind) > 1 and of and stepped.count(of) == 1:
            found.append(of)
        else:
            found.append(numbered)
    return found


def _numbered(kinds) -> list[str]:
    return [f"{n} {kinds[:k].count(n) + 1}" if kinds.count(n) > 1 else n for k, n in enumerate(kinds)]
