"""The parts of `python bench/gpu.py`: what is measured (a module for each section), with which clock, kept how."""
