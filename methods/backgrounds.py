"""What models of Fieldbook's own do about the colour behind what they show: pictures with alpha, masks, no background.

N rays.
"""

from __future__ import annotations

from typing import Any

import torch
from nerfstudio.models.base_model import Model
from torch import Tensor
from torch.nn import functional as F

from methods.runner.on_demand import Psnr

COLOURS = {"white": 1.0, "black": 0.0}
MET = 1e-2  # opacity below which a ray has no depth of its own
UNKNOWN_BACKGROUND = 0.5  # what a random background is on average


class BackgroundModel(Model):
    """A model that trains before a colour of its choice; its config has ``background`` (random, white or black)."""

    config: Any
    alpha_background: Tensor | None

    def populate_modules(self) -> None:
        """Note the colour that the dataset's pictures are to be seen before, None if they fill the frame."""
        super().populate_modules()
        self.alpha_background = (self.kwargs.get("metadata") or {}).get("background")

    def training_background(self, like: Tensor) -> Tensor:
        """This step's colour behind each ray ``[N, 3]``."""
        if self.config.background == "random":
            return torch.rand_like(like)
        return torch.full_like(like, COLOURS[self.config.background])

    def render_background(self) -> Tensor:
        """What stands behind rendered pictures, ``[3]``: the dataset's colour, else the one trained with."""
        if self.alpha_background is not None:
            return self.alpha_background.to(self.device)
        return torch.full((3,), COLOURS.get(self.config.background, UNKNOWN_BACKGROUND), device=self.device)

    def truth(self, outputs: Any, batch: Any) -> Tensor:
        """A batch's pictures before the step's background, or before the rendered one."""
        background = outputs["background"] if "background" in outputs else self.render_background()
        return blend(batch["image"].to(self.device), background)

    def get_metrics_dict(self, outputs: Any, batch: Any) -> dict[str, Tensor]:
        """``psnr`` of the batch, ``num_samples`` of its rays."""
        if "num_samples" not in outputs:
            return {}
        with torch.no_grad():
            error = F.mse_loss(outputs["rgb"], self.truth(outputs, batch))
        return {"psnr": -10 * torch.log10(error), "num_samples": outputs["num_samples"]}

    def get_image_metrics_and_images(self, outputs: Any, batch: Any) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR of a whole picture, and truth and prediction side by side, for nerfstudio's own tools."""
        truth = blend(batch["image"].to(self.device), self.render_background())
        psnr = Psnr()(outputs["rgb"], truth)
        return {"psnr": float(psnr)}, {"img": torch.cat([truth, outputs["rgb"]], dim=1)}

    def get_rgba_image(self, outputs: Any, output_name: str = "rgb") -> Tensor:
        """A rendered picture with straight alpha in place of the background, ``[..., 4]``, for nerfstudio's exports."""
        opacity = outputs["accumulation"]
        emitted = outputs[output_name] - (1 - opacity) * self.render_background()
        return torch.cat([(emitted / opacity.clamp(min=MET)).clamp(0, 1), opacity], dim=-1)


def mean_depth(depth: Tensor, opacity: Tensor, far: float) -> Tensor:
    """Mean distance of what a ray meets, ``[N, 1]``; ``far`` where it meets next to nothing.

    Args:
        depth: ``[N, 1]``, sum of weight times distance.
        opacity: ``[N, 1]``, sum of the weights.
        far: As far away as anything can be seen.
    """
    return torch.where(opacity > MET, depth / opacity.clamp(min=MET), far)


def blend(picture: Tensor, background: Tensor) -> Tensor:
    """A picture ``[..., 3]`` or, with straight alpha, ``[..., 4]`` over a background ``[..., 3]``."""
    if picture.shape[-1] == 3:
        return picture
    alpha = picture[..., 3:]
    return picture[..., :3] * alpha + background * (1 - alpha)
