"""hash-nerf's field: positions and directions to density and colour.

M samples, N rays.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.hash_nerf.config import HashNerfModelConfig
from methods.kernels.encodings import spherical_harmonics
from methods.kernels.modules import GridEncoding, ReluNetwork, truncated_exp


@dataclass(frozen=True)
class Space:
    """From world positions to the grid's unit cube.

    Attributes:
        centre: ``[3]``, of the scene box.
        half: Half its side; the box is a cube.
        contracted: Whether the outside is folded in: the box fills the middle half of the cube, infinity its faces.
    """

    centre: Tensor
    half: float
    contracted: bool

    def to_unit(self, positions: Tensor) -> Tensor:
        """World positions ``[M, 3]`` to ``[0, 1]``.

        The fold is that of Barron et al. 2022 (Mip-NeRF 360), equation 10, in the maximum norm, as MERF and nerfacto
        use it: cubes stay cubes, so that grid cells stay axis-aligned.
        """
        x = (positions - self.centre) * (1 / self.half)
        if not self.contracted:
            return torch.clamp(x * 0.5 + 0.5, 0.0, 1.0)
        norm = x.abs().amax(dim=-1, keepdim=True).clamp(min=1.0)
        return x * ((2 - 1 / norm) / norm) * 0.25 + 0.5


class HashField(nn.Module):
    """Hash grid, a density network with one hidden layer, and a colour network.

    Args:
        config: The model's config.
        space: Where the grid lies.
        num_images: Training pictures, for the appearance embedding.
    """

    def __init__(self, config: HashNerfModelConfig, space: Space, num_images: int):
        super().__init__()
        self.config, self.space = config, space
        self.encoding = GridEncoding.between(
            config.base_res,
            config.max_res,
            config.num_levels,
            features=config.features_per_level,
            log2_size=config.log2_hashmap_size,
        )
        width, out = config.hidden_dim, config.geo_feat_dim + 1
        self.density_net = ReluNetwork([self.encoding.grid.width, width, out])
        self.appearance = nn.Embedding(num_images, config.appearance_embedding_dim)
        nn.init.normal_(self.appearance.weight, std=0.1)
        inputs = out + config.sh_degree**2 + config.appearance_embedding_dim
        self.colour_net = ReluNetwork([inputs, *[width] * config.num_layers_color, 3])

    def density(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Density ``[M]`` (per world unit) and the density network's outputs ``[M, 1 + features]``."""
        raw = self.density_net(self.encoding(self.space.to_unit(positions)))
        # In units of the box: the same network output means the same opacity in a small and in a large scene.
        return truncated_exp(raw[:, 0]) * (self.config.initial_density / self.space.half), raw

    def ray_features(self, directions: Tensor, images: Tensor | None) -> Tensor:
        """What the colour network sees of a ray, ``[N, degree^2 + appearance]``, once per ray.

        Args:
            directions: ``[N, 3]``, unit.
            images: ``[N]`` numbers of training pictures; None takes the mean appearance.
        """
        harmonics = spherical_harmonics(directions, self.config.sh_degree)
        if self.config.appearance_embedding_dim == 0:
            return harmonics
        code = self.appearance.weight.mean(dim=0).expand(len(directions), -1)
        return torch.cat([harmonics, code if images is None else self.appearance(images)], dim=-1)

    def colour(self, raw: Tensor, ray_features: Tensor, ray: Tensor) -> Tensor:
        """Colour of the samples.

        Args:
            raw: ``[M, 1 + features]``, the density network's outputs.
            ray_features: ``[N, degree^2 + appearance]``.
            ray: ``[M]``, each sample's row of them.

        Returns:
            ``[M, 3]`` in [0, 1].
        """
        return torch.sigmoid(self.colour_net(raw, ray_features, ray))
