"""Compiles plain .cu sources with g++ and executes them on the CPU: fast, or with every memory access checked."""

from __future__ import annotations

from .build import CompileError, EmulatorUnavailable, unavailable
from .faults import Fault, KernelFault
from .module import Function, Module
from .verify import verify
from .vocabulary import OutsideVocabulary

__all__ = [
    "CompileError", "EmulatorUnavailable", "Fault", "Function", "KernelFault", "Module", "OutsideVocabulary",
    "unavailable", "verify",
]
