"""Compiles plain .cu sources with g++ and executes them on the CPU: fast, or with every memory access checked."""

from __future__ import annotations

from .build import CompileError, EmulatorUnavailable, unavailable
from .faults import Fault, KernelFault
from .module import Function, Module
from .traffic import LineTraffic, traffic
from .verify import verify
from .vocabulary import OutsideVocabulary

__all__ = [
    "CompileError", "EmulatorUnavailable", "Fault", "Function", "KernelFault", "LineTraffic", "Module",
    "OutsideVocabulary", "traffic", "unavailable", "verify",
]
