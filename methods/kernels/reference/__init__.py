"""Plain-torch twins of the kernels: the same names and arguments, differentiable as often as one likes.

They state what a kernel computes, serve as its independent check, and run where there is no compiler.
"""

from methods.kernels.reference.grid import grid_encode

__all__ = ["grid_encode"]
