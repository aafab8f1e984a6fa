"""Functions of lower floors that stand inside wrappers: what is put back where wrappers end in another order."""
from __future__ import annotations

import weakref

__all__ = ["Replaced", "abandon", "revive", "standing"]

_abandoned: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # wrapper -> what it stood around


class Replaced:
    """Wrappers in the place of functions of lower floors, which stand there until `put_back`."""

    def __init__(self):
        self._all: list[tuple[object, str, object, object]] = []  # owner, name, wrapper, what was there

    def replace(self, owner, name, wrapping) -> None:
        """Put `wrapping(function)` in the place of a function, once."""
        now = vars(owner)[name]
        if any(o is owner and n == name and wrapper is now for o, n, wrapper, _ in self._all):
            return
        wrapper = wrapping(now)
        setattr(owner, name, wrapper)
        self._all.append((owner, name, wrapper, now))

    def put_back(self) -> None:
        """The very objects that were there; where another wrapper stands around one, that will."""
        while self._all:
            owner, name, wrapper, was = self._all.pop()
            if vars(owner).get(name) is wrapper:
                setattr(owner, name, standing(was))
            else:
                abandon(wrapper, was)


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
