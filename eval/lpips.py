"""LPIPS v0.1 (Zhang et al. 2018) with AlexNet and VGG16 backbones, or the reason why there is none.

The network and the learned linear heads are torchmetrics'; the backbones are torchvision's ImageNet weights,
a download that an offline cluster has to bring in a folder. Symbols: f_l features of layer l, normalised to
unit length over channels; w_l the head of layer l; d_l = w_l . (f_l(x) - f_l(y))^2, a map of layer l's
resolution (eq. 1).
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate
from torchmetrics.functional.image import lpips as library
from torchvision.models import AlexNet_Weights, VGG16_Weights

from eval.metrics import check_shapes
from fieldbook.errors import UserError
from fieldbook.files import sha256_file
from methods.runner.tensors import load_tensors

log = logging.getLogger(__name__)

DOWNLOAD = "download"
# Per network operation, not for the whole download: without it a dropped connection waits for minutes.
TIMEOUT_S = 10.0
_URL = {"alex": AlexNet_Weights.IMAGENET1K_V1.url, "vgg": VGG16_Weights.IMAGENET1K_V1.url}
# Below these sides a pooling layer before the last compared features has nothing left to pool.
MIN_SIDE = {"alex": 31, "vgg": 16}
_FAILURES = (OSError, HTTPException, RuntimeError, ValueError, KeyError, TypeError, UserError)


@dataclass(frozen=True)
class LpipsScore:
    """LPIPS of one prediction.

    Attributes:
        value: Sum over layers of the mean of d_l; ``None`` for pictures too small for the backbone.
        masked: Sum over layers of d_l upsampled bilinearly to the picture, averaged over the mask's pixels;
            ``None`` without a mask or with an empty one. With a full mask it differs slightly from ``value``,
            because upsampling gives border cells another weight.
    """

    value: float | None = None
    masked: float | None = None


class Lpips:
    """A loaded network.

    Attributes:
        net: ``alex`` or ``vgg``.
        weights_sha256: Of the backbone's file. torchvision's file names carry the true one's first 8 digits.
    """

    def __init__(self, net: str, weights: Path, device: torch.device | str = "cpu"):
        self.net, self.weights_sha256 = net, sha256_file(weights)
        self._device = torch.device(device)
        self._model = _build(net, weights).to(self._device)

    @torch.inference_mode()
    def compare(
        self, predictions: Sequence[np.ndarray], truth: np.ndarray, mask: np.ndarray | None = None
    ) -> list[LpipsScore]:
        """Score predictions of one picture; the truth passes through the backbone once.

        Args:
            predictions: Each ``[h, w, 3]`` in [0, 1]; mapped to [-1, 1] here.
            truth: ``[h, w, 3]`` in [0, 1].
            mask: ``[h, w]`` bool.

        Raises:
            ValueError: Shapes differ.
        """
        for prediction in predictions:
            check_shapes(prediction, truth, mask)
        if min(truth.shape[:2]) < MIN_SIDE[self.net]:
            return [LpipsScore()] * len(predictions)
        target = self._features(truth)
        return [self._score(self._features(prediction), target, mask) for prediction in predictions]

    def _features(self, image: np.ndarray) -> list[torch.Tensor]:
        """Unit-length features, one ``[1, channels, h_l, w_l]`` per layer."""
        x = torch.as_tensor(np.ascontiguousarray(image), dtype=torch.float32, device=self._device)
        scaled = self._model.scaling_layer(2 * x.permute(2, 0, 1)[None] - 1)
        # TF32 convolutions would move the third digit between GPU generations.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return [library._normalize_tensor(f) for f in self._model.net(scaled)]

    def _score(self, x: list[torch.Tensor], y: list[torch.Tensor], mask: np.ndarray | None) -> LpipsScore:
        maps = [head((a - b) ** 2) for head, a, b in zip(self._model.lins, x, y, strict=True)]
        value = sum(float(m.mean()) for m in maps)
        if mask is None or not mask.any():
            return LpipsScore(value)
        full = torch.stack([interpolate(m, mask.shape, mode="bilinear")[0, 0] for m in maps]).sum(0)
        return LpipsScore(value, float(full[torch.as_tensor(mask, device=self._device)].mean()))


def load_lpips(net: str, weights: str, device: torch.device | str = "cpu") -> Lpips | str:
    """Load LPIPS, or say why it cannot be had; never raises for missing weights or a missing network.

    Args:
        net: ``alex`` or ``vgg``.
        weights: A folder that holds ``alexnet-owt-7be5be79.pth`` and ``vgg16-397923af.pth``; ``download`` for
            torch's own cache, filled over the network.
        device: Where the network runs.

    Returns:
        The network, or the reason in one line.
    """
    try:
        path = _downloaded(net) if weights == DOWNLOAD else Path(weights).expanduser() / weights_name(net)
        return Lpips(net, path, device)
    except FileNotFoundError as error:
        reason = f"no backbone weights: {error.filename} does not exist"
    except _FAILURES as error:
        reason = f"backbone weights of LPIPS {net} cannot be had from {weights!r}: {_one_line(error)}"
    log.warning("LPIPS %s is unavailable: %s", net, reason)
    return reason


def weights_name(net: str) -> str:
    """File name of a backbone's weights, as torchvision publishes it."""
    return _URL[net].rsplit("/", 1)[1]


def _downloaded(net: str) -> Path:
    """The backbone's file in torch's cache, fetched first where it is not there."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights_name(net)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with _timeout(TIMEOUT_S):
            torch.hub.download_url_to_file(
                _URL[net], str(path), hash_prefix=path.stem.rsplit("-", 1)[1], progress=False
            )
    return path


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _build(net: str, weights: Path) -> library._LPIPS:
    """Build torchmetrics' network with our backbone file and its own heads."""
    heads = load_tensors(Path(library.__file__).parent / "lpips_models" / f"{net}.pth")
    # On the meta device the backbone's classifier (VGG16: half a gigabyte) is never allocated or initialised.
    with torch.device("meta"):
        model = library._LPIPS(pretrained=False, net=net, pnet_rand=True)  # type: ignore[arg-type]
    state = {**_backbone_state(model, load_tensors(weights)), **heads}
    result = model.load_state_dict(state, strict=False, assign=True)
    missing = [key for key in result.missing_keys if not key.startswith("lins.")]  # lins.k is lin<k> again
    if missing or result.unexpected_keys:
        raise ValueError(f"missing {missing}, unexpected {result.unexpected_keys}")
    model.scaling_layer = library.ScalingLayer()
    return model.eval()


def _backbone_state(model: library._LPIPS, published: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename ``features.<i>.weight`` to the model's ``net.slice<k>.<i>.weight``; no classifier."""
    wanted = [key for key in model.state_dict() if key.startswith("net.")]
    return {key: published["features." + key.split(".", 2)[2]] for key in wanted}


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
