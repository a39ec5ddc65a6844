"""The thin layer over pycolmap: options, features, matches and mapping, all on the CPU, every seed set.

COLMAP numbers images in the order in which extraction threads finish, and the mapper breaks ties by that
number. So images are entered first, in order; after that extraction and matching may use every core and still
give the same database. The mappers are deterministic only with one thread. Features are SIFT on the CPU, also
where COLMAP has CUDA, because its GPU SIFT finds other key points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pycolmap

from data.poses import opengl_from_opencv

RAW_CAMERA = "SIMPLE_RADIAL"  # f, cx, cy, k: one focal length and one radial term, principal point in the middle
CENTRED_PINHOLE = "SIMPLE_PINHOLE"  # f, cx, cy, for pictures that are undistorted already
EXHAUSTIVE_UP_TO = 40  # images; 780 pairs
KEY_FRAMES = 20  # of a longer sequence, all matched to each other so that loops close


@dataclass(frozen=True)
class SfmOptions:
    """How to reconstruct.

    Attributes:
        mapper: COLMAP's incremental, global (GLOMAP) or hierarchical mapper.
        preset: ``default`` keeps COLMAP's limits; ``few`` loosens them.
        matching: ``exhaustive`` all pairs, ``sequential`` neighbours and key frames, ``auto`` by their number.
        seed: Of every random generator, >= 0.
        threads: Of the mapper; equal poses on a second run are promised for 1 only. -1 uses every core.
        max_features: SIFT features per image, the largest scales first.
        camera_model: COLMAP's name; all images share one camera, its principal point stays in the middle.
    """

    mapper: Literal["incremental", "global", "hierarchical"] = "incremental"
    preset: Literal["default", "few"] = "default"
    matching: Literal["auto", "sequential", "exhaustive"] = "auto"
    seed: int = 0
    threads: int = 1
    max_features: int = 4096
    camera_model: str = RAW_CAMERA

    @staticmethod
    def from_spec(sfm: dict[str, Any], **changes: Any) -> SfmOptions:
        """Options of a scene spec's ``sfm`` keys, with ``changes`` on top."""
        fields = ("mapper", "preset", "matching", "seed", "threads", "max_features")
        return SfmOptions(**({key: sfm[key] for key in fields if key in sfm} | changes))


def extraction(options: SfmOptions) -> pycolmap.FeatureExtractionOptions:
    """Options of feature extraction."""
    out = pycolmap.FeatureExtractionOptions()
    out.use_gpu = False
    out.sift.max_num_features = options.max_features
    return out


def matching() -> pycolmap.FeatureMatchingOptions:
    """Options of descriptor matching."""
    out = pycolmap.FeatureMatchingOptions()
    out.use_gpu = False
    return out


def verification(options: SfmOptions) -> pycolmap.TwoViewGeometryOptions:
    """Options of the two-view geometry that a pair must have."""
    out = pycolmap.TwoViewGeometryOptions()
    out.ransac.random_seed = options.seed
    if options.preset == "few":
        out.min_num_inliers = 10
    return out


def incremental(options: SfmOptions) -> pycolmap.IncrementalPipelineOptions:
    """Options of the incremental mapper, also inside the hierarchical one and for triangulation."""
    out = pycolmap.IncrementalPipelineOptions()
    out.num_threads = out.mapper.num_threads = options.threads
    out.random_seed = out.mapper.random_seed = out.triangulation.random_seed = options.seed
    if options.preset == "few":
        out.min_num_matches = 10
        out.min_model_size = 2
        out.mapper.init_min_num_inliers = 30
        out.mapper.init_min_tri_angle = 4.0
        out.mapper.abs_pose_min_num_inliers = 15
        out.triangulation.ignore_two_view_tracks = False
    return out


def global_(options: SfmOptions) -> pycolmap.GlobalPipelineOptions:
    """Options of the global mapper."""
    out = pycolmap.GlobalPipelineOptions()
    out.num_threads = out.mapper.num_threads = options.threads
    out.random_seed = out.mapper.random_seed = options.seed
    out.mapper.rotation_averaging.random_seed = options.seed
    out.mapper.global_positioning.random_seed = options.seed
    out.mapper.retriangulation.random_seed = options.seed
    out.mapper.global_positioning.use_gpu = out.mapper.bundle_adjustment.ceres.use_gpu = False
    out.mapper.bundle_adjustment.ceres.solver_options.num_threads = options.threads
    if options.preset == "few":
        out.min_num_matches = 10
        out.mapper.retriangulation.ignore_two_view_tracks = False
    return out


def hierarchical(options: SfmOptions) -> pycolmap.HierarchicalPipelineOptions:
    """Options of the hierarchical mapper."""
    out = pycolmap.HierarchicalPipelineOptions()
    out.num_threads, out.num_workers = options.threads, 1
    out.incremental_options = incremental(options)
    return out


def view_graph(options: SfmOptions) -> pycolmap.ViewGraphCalibrationOptions:
    """Options of the focal length's estimate, which the global mapper needs beforehand."""
    out = pycolmap.ViewGraphCalibrationOptions()
    out.random_seed = options.seed
    return out


def triangulation(options: SfmOptions) -> pycolmap.IncrementalPipelineOptions:
    """Options of triangulation with given cameras; keeps tracks of two frames, which the mapper mistrusts."""
    out = incremental(options)
    out.triangulation.ignore_two_view_tracks = False
    return out


def option_values(options: SfmOptions, last_step: Any = None) -> dict[str, Any]:
    """Every option value, COLMAP's defaults included, as JSON; paths are left out.

    Args:
        options: See ``SfmOptions``.
        last_step: pycolmap's options of the step after matching, by default those of ``options.mapper``.
    """
    mappers = {"incremental": incremental, "global": global_, "hierarchical": hierarchical}
    last_step = last_step or mappers[options.mapper](options)
    return {
        **asdict(options),
        "colmap_version": pycolmap.__version__,
        "extraction_options": plain(extraction(options).todict()),
        "matching_options": plain(matching().todict()),
        "verification_options": plain(verification(options).todict()),
        "mapper_options": plain(last_step.todict()),
    }


def plain(value: Any) -> Any:
    """Turn what pycolmap's ``todict`` gives into JSON values."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items() if not isinstance(v, Path)}
    if isinstance(value, list | tuple | set):
        return [plain(v) for v in value]
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def quiet() -> None:
    """Keep COLMAP's progress off standard error; errors stay."""
    pycolmap.logging.minloglevel = pycolmap.logging.Level.ERROR.value


def extract(
    database: Path, image_dir: Path, names: Sequence[str], options: SfmOptions, mask_dir: Path | None = None
) -> None:
    """Write one shared camera, the images in the order of ``names``, and their features to ``database``.

    Args:
        database: Must not exist.
        image_dir: Folder of the images.
        names: File names in it, which must exist.
        options: See ``SfmOptions``.
        mask_dir: COLMAP's masks, ``<name>.png`` for each image; no feature where a mask is 0.
    """
    quiet()
    pycolmap.Database.open(database).close()
    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = options.camera_model
    if mask_dir is not None:
        reader.mask_path = mask_dir
    mode = pycolmap.CameraMode.SINGLE
    pycolmap.import_images(database, image_dir, mode, list(names), reader)
    with_features = extraction(options)
    pycolmap.extract_features(database, image_dir, list(names), mode, reader, with_features, pycolmap.Device.cpu)


def image_pairs(names: Sequence[str], how: str) -> list[tuple[str, str]]:
    """Pairs of images to match.

    Sequential pairs are those 1, 2, 4, 8, ... images apart, and all pairs among some 20 evenly spaced key frames:
    these close loops, for which COLMAP itself needs a vocabulary tree from the network.

    Args:
        names: Images in capture order.
        how: ``exhaustive``, ``sequential``, or ``auto``: exhaustive up to 40 images.
    """
    n = len(names)
    if how == "exhaustive" or (how == "auto" and n <= EXHAUSTIVE_UP_TO):
        return list(combinations(names, 2))
    near = {(i, i + 2**k) for k in range(n.bit_length()) for i in range(n - 2**k)}
    far = combinations(range(0, n, -(-n // KEY_FRAMES)), 2)
    return [(names[i], names[j]) for i, j in sorted(near.union(far))]


def match(database: Path, names: Sequence[str], options: SfmOptions, work_dir: Path) -> None:
    """Match and verify the pairs of ``names`` that the database has not matched yet."""
    pairs_file = work_dir / "pairs.txt"
    pairs_file.write_text("".join(f"{a} {b}\n" for a, b in image_pairs(names, options.matching)), encoding="utf-8")
    pairing = pycolmap.ImportedPairingOptions()
    pairing.match_list_path = pairs_file
    quiet()
    pycolmap.set_random_seed(options.seed)
    pycolmap.match_image_pairs(database, matching(), pairing, verification(options), pycolmap.Device.cpu)


def run_mapper(database: Path, image_dir: Path, output: Path, options: SfmOptions) -> list[pycolmap.Reconstruction]:
    """All models the mapper finds, that with most images, then most points, first; also in ``output``."""
    quiet()
    pycolmap.set_random_seed(options.seed)
    output.mkdir(parents=True, exist_ok=True)
    with pycolmap.Database.open(database) as opened:
        if opened.num_inlier_matches() == 0:  # the hierarchical mapper would fail on it
            return []
    if options.mapper == "global":
        # The global mapper trusts focal lengths, and until here they are guesses from the image size.
        pycolmap.calibrate_view_graph(database, view_graph(options))
        models = pycolmap.global_mapping(database, image_dir, output, global_(options))
    elif options.mapper == "hierarchical":
        models = pycolmap.hierarchical_mapping(database, image_dir, output, hierarchical(options))
    else:
        models = pycolmap.incremental_mapping(database, image_dir, output, incremental(options))
    return sorted(models.values(), key=lambda m: (-m.num_reg_images(), -m.num_points3D()))


def model_poses(model: pycolmap.Reconstruction) -> dict[str, np.ndarray]:
    """World-from-camera poses ``[4, 4]``, OpenGL axes, in the model's frame, by image name, sorted."""
    poses = {}
    for image in sorted((model.image(i) for i in model.reg_image_ids()), key=lambda i: i.name):
        pose = np.eye(4)
        pose[:3] = image.cam_from_world().inverse().matrix()
        poses[image.name] = opengl_from_opencv(pose)
    return poses


def model_points(model: pycolmap.Reconstruction) -> tuple[np.ndarray, np.ndarray]:
    """Points ``[n, 3]`` in the model's frame and colours ``[n, 3]`` uint8, in the order of their numbers."""
    points = [model.points3D[i] for i in sorted(model.points3D)]
    if not points:
        return np.zeros((0, 3)), np.zeros((0, 3), np.uint8)
    return np.array([p.xyz for p in points]), np.array([p.color for p in points], np.uint8)
