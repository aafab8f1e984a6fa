"""Functions of lower floors that stand inside wrappers: what is put back where wrappers end in another order."""
from __future__ import annotations

import weakref

__all__ = ["abandon", "revive", "standing"]

_abandoned: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # wrapper -> what it stood around


def abandon(wrapper, was) -> None:
    """This wrapper is over, and another one stands around it, which will put it back: `was` is to be put back then."""
    _abandoned[wrapper] = was


def revive(wrapper) -> bool:
    """Use a wrapper again that was abandoned and is still inside another one; False where it is not."""
    return _abandoned.pop(wrapper, None) is not None


def standing(function):
    """What is to be put back for `function`: itself, or what the wrappers that were abandoned stood around."""
    while function in _abandoned:
        function = _abandoned.pop(function)
    return function
