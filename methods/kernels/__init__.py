"""Kernels of radiance fields: one body for CPU and GPU, each with a plain-torch twin in ``reference``."""
