"""Plain-torch twins of the kernels: the same names and arguments, differentiable as often as one likes.

They state what a kernel computes, serve as its independent check, and run where there is no compiler.
"""

from methods.kernels.reference.adam import adam_step_
from methods.kernels.reference.compositing import composite, composite_alive_, composite_alpha
from methods.kernels.reference.distance_net import distance_net, distance_only, split_distance_net
from methods.kernels.reference.distortion import distortion
from methods.kernels.reference.encodings import frequency_encode, spherical_harmonics
from methods.kernels.reference.grid import grid_encode, grid_encode_taps, grid_input_gradient
from methods.kernels.reference.marching import march, march_alive, ray_aabb, ray_points
from methods.kernels.reference.mlp import mlp
from methods.kernels.reference.occupancy import mark_unseen_, morton3d, morton3d_inverse, occupancy_update_, pack_bits

__all__ = [
    "adam_step_",
    "composite",
    "composite_alive_",
    "composite_alpha",
    "distance_net",
    "distance_only",
    "distortion",
    "frequency_encode",
    "grid_encode",
    "grid_encode_taps",
    "grid_input_gradient",
    "march",
    "march_alive",
    "mark_unseen_",
    "mlp",
    "morton3d",
    "morton3d_inverse",
    "occupancy_update_",
    "pack_bits",
    "ray_aabb",
    "ray_points",
    "spherical_harmonics",
    "split_distance_net",
]
