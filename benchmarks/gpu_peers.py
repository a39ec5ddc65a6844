"""nerfacc as a peer on a GPU: built against CUDA 13, and called the way its users do.

nerfacc 0.5.2 compiles its kernels when they are first used, and names ``cub::Equality``, which CUDA 13's CUB no longer
has. A header that is included before everything else gives the name back; the package itself stays as it is.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from methods.kernels.build import cache_root, find_toolchain

SHIM = """\
#pragma once
#include <cub/version.cuh>
#if CUB_MAJOR_VERSION >= 3
#include <cub/util_namespace.cuh>
#include <cuda/std/functional>
CUB_NAMESPACE_BEGIN
using Equality = ::cuda::std::equal_to<>;
CUB_NAMESPACE_END
#endif
"""


class PeerMissingError(RuntimeError):
    """A peer cannot run here; the text says why, in one line."""


@dataclass(frozen=True)
class Nerfacc:
    """nerfacc, ready to run.

    Attributes:
        module: The package.
        build_seconds: What building its kernels took; loading them, if an earlier run had built them.
    """

    module: Any
    build_seconds: float

    def estimator(self, occupied: Tensor, half: float) -> Any:
        """Its occupancy grid of one level: ``[1, H, H, H]`` bool cells over ± half."""
        made = self.module.OccGridEstimator([-half] * 3 + [half] * 3, occupied.shape[-1], levels=1).to(occupied.device)
        made.binaries = occupied
        return made

    def composite(
        self, density: Tensor, rgb: Tensor, start: Tensor, end: Tensor, ray_index: Tensor, packed_info: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Colour ``[N, 3]``, opacity ``[N]`` and depth ``[N]`` of packed samples.

        Args:
            density: ``[M]``.
            rgb: ``[M, 3]``.
            start: ``[M]``.
            end: ``[M]``.
            ray_index: ``[M]`` int64.
            packed_info: ``[N, 2]`` int64, each ray's first sample and how many; given, so that nerfacc need not count.
        """
        rays, along = packed_info.shape[0], self.module.accumulate_along_rays
        weights, _, _ = self.module.render_weight_from_density(start, end, density, packed_info=packed_info)
        depth = along(weights, (start + end)[:, None] / 2, ray_index, rays)
        return along(weights, rgb, ray_index, rays), along(weights, None, ray_index, rays)[:, 0], depth[:, 0]


def nerfacc() -> Nerfacc:
    """Import nerfacc and build its kernels: minutes the first time.

    Raises:
        PeerMissingError: It is not installed, or its kernels cannot be built or loaded.
    """
    home = find_toolchain().cuda_home
    if home is None:
        raise PeerMissingError("nerfacc needs nvcc to build its kernels")
    started = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder, _build_environment(Path(folder), home):
            module = importlib.import_module("nerfacc")
            backend = importlib.import_module("nerfacc.cuda._backend")
    except (ImportError, OSError, RuntimeError) as error:
        raise PeerMissingError(f"nerfacc: {_first_error(str(error))}") from error
    if backend._C is None:
        raise PeerMissingError("nerfacc found no CUDA toolkit")
    return Nerfacc(module, time.perf_counter() - started)


def build_variables(folder: Path, home: Path) -> dict[str, str]:
    """Environment in which nerfacc's kernels compile; writes the header into the folder.

    Args:
        folder: For the header.
        home: CUDA's toolkit.
    """
    shim = folder / "nerfacc_shim.h"
    shim.write_text(SHIM, encoding="utf-8")
    major, minor = torch.cuda.get_device_capability() if torch.cuda.is_available() else (9, 0)
    # torch's headers include cuBLAS and others, which a toolkit may lack but torch's own wheels bring.
    overlay = (
        Path(torch.__file__).parent.parent / "nvidia" / f"cu{(torch.version.cuda or '').split('.')[0]}" / "include"
    )
    return {
        "NVCC_APPEND_FLAGS": f"-include {shim}",
        "CUDA_HOME": str(home),
        "CPATH": os.pathsep.join([str(overlay), *filter(None, [os.environ.get("CPATH")])]),
        "PATH": os.pathsep.join([str(home / "bin"), str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "TORCH_CUDA_ARCH_LIST": f"{major}.{minor}",
        "TORCH_EXTENSIONS_DIR": str(cache_root() / f"nerfacc-torch{torch.__version__}"),
    }


@contextmanager
def _build_environment(folder: Path, home: Path) -> Iterator[None]:
    """The variables, for as long as nerfacc builds: the shim must not reach anybody else's compilation."""
    from torch.utils import cpp_extension

    # torch looks for the toolkit when it is imported, and an nvcc that is a wrapper script misleads it.
    found = patch.object(cpp_extension, "CUDA_HOME", str(home))
    with found, patch.dict(os.environ, build_variables(folder, home)):
        yield


def _first_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), lines[0] if lines else "it gave no reason")
