"""Floating point operations and bytes of one operator application, from its class name and its operands' shapes."""
