"""The JSON files that stages pass on, and their shapes: a results folder may be downloaded, or edited by hand.

What is read here is checked once, so that code after it may rely on types, on finite numbers and on names that are
names. A key that is missing is a mistake in the file as well, when it is asked for.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldbook import shapes
from fieldbook.errors import UserError
from fieldbook.files import read_json
from fieldbook.shapes import Misfit, Shape, many, mapping, maybe, number, positive, record, text, whole


class Keys(dict[str, Any]):
    """A JSON object whose missing keys are a mistake of its file's, not of ours."""

    def __init__(self, entries: Any = (), where: str = "the file", remedy: str = "make it again"):
        super().__init__(entries)
        self._where, self._remedy = where, remedy

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self._where} has no key {key!r}; {self._remedy}")


@dataclass(frozen=True)
class Document:
    """A kind of file.

    Attributes:
        shape: Of its content.
        remedy: What to do about a damaged one.
    """

    shape: Shape
    remedy: str


def read_document(path: Path, kind: Document) -> Keys:
    """Read a JSON file of a kind.

    Raises:
        UserError: It cannot be read, is not JSON, or does not have the shape of its kind; missing keys raise it when
            they are asked for.
    """
    try:
        value = read_json(path, lambda entries: Keys(entries, str(path), kind.remedy))
    except UserError as error:
        raise UserError(f"{error}; {kind.remedy}") from None
    check_document(value, str(path), kind)
    return value


def check_document(value: Any, where: str, kind: Document) -> None:
    """Check a value against the shape of a kind.

    Raises:
        UserError: Says where it does not fit, what stands there and what should.
    """
    try:
        kind.shape(value, "")
    except Misfit as error:
        raise UserError(f"{where}: {error}; {kind.remedy}") from None


def _again(command: str) -> str:
    return f"make it again with `fieldbook {command}`"


def _distinct_frames(value: Any, where: str) -> None:
    many(_FRAME)(value, where)
    twice = next((n for n, times in Counter(frame["name"] for frame in value).items() if times > 1), None)
    if twice:
        raise Misfit(f"{where} names {twice!r} twice")


_SIM3 = record({"scale": positive, "rotation": shapes.rotation, "translation": shapes.vector})
_LENS = record({"model": text, "width": shapes.side, "height": shapes.side, "params": many(number, fewest=1, most=20)})
_FRAME = record(
    {"name": shapes.name},
    {
        "index": whole(),
        "time_s": maybe(number),
        "sharpness": number,
        "exposure": number,
        "source": maybe(shapes.name),
        "split": shapes.word("train", "test"),
        "file_path": text,
        "transform_matrix": shapes.pose,
        "lens": _LENS,
    },
)
_POSES = mapping(shapes.pose, shapes.name)

CAPTURE = Document(
    record(
        {},
        {
            "kind": text,
            "source": text,
            "sha256": text,
            "width": shapes.side,
            "height": shapes.side,
            "fps": maybe(positive),
            "frame_count": whole(),
            "expected_frame_count": whole(),
            "lost_frames": whole(),
            "left_out": whole(),
            "truth": shapes.boolean,
        },
    ),
    _again("capture"),
)
FRAMES = Document(
    record(
        {},
        {
            "width": shapes.side,
            "height": shapes.side,
            "frames": _distinct_frames,
            "camera": shapes.camera,
            "box": shapes.box,
            "ball": shapes.boolean,
            "world": _SIM3,
            "background": maybe(text),
        },
    ),
    f"{_again('frames')}, then `fieldbook reference`",
)
REFERENCE = Document(
    record(
        {},
        {
            "space": text,
            "camera": shapes.camera,
            "box": shapes.box,
            "ball": shapes.boolean,
            "world": _SIM3,
            "poses": _POSES,
            "unregistered": many(text),
            "requested": whole(),
            "registered": whole(),
            "mean_reprojection_error": maybe(number),
        },
    ),
    _again("reference"),
)
POSES = Document(
    record(
        {},
        {
            "camera": shapes.camera,
            "poses": _POSES,
            "unregistered": many(text),
            **dict.fromkeys(("requested", "registered"), whole()),
            **dict.fromkeys(("focal_ratio", "gap_ratio"), number),
            "alignment": maybe(
                record({}, {"outliers": many(text), "rotation_median_deg": number, "centre_median": number})
            ),
        },
    ),
    _again("poses"),
)
SCENE = Document(
    record(
        {},
        {
            "scene_from_colmap": _SIM3,
            "camera": shapes.camera,
            "near": positive,
            "far": positive,
            "poi": shapes.vector,
            "poi_in_colmap": shapes.vector,
            "axis": shapes.direction,
            "axis_source": text,
            "bounds": shapes.box,
            "camera_distance_mean": positive,
            "camera_height_mean": number,
            "uncertainty": record({}),
        },
    ),
    _again("scene-frame"),
)
SPLITS = Document(
    record(
        {},
        {
            "test": many(shapes.name),
            "pool": many(shapes.name),
            "unregistered": many(shapes.name),
            "nested": shapes.boolean,
            "orders": mapping(many(shapes.name)),
        },
    ),
    _again("splits"),
)
TRANSFORMS = Document(
    record(
        {
            "frames": many(
                record(
                    {"file_path": text},
                    {
                        "transform_matrix": shapes.pose,
                        "mask_path": text,
                        **dict.fromkeys(("fl_x", "fl_y"), positive),
                        **dict.fromkeys(("cx", "cy"), number),
                        **dict.fromkeys(("w", "h"), shapes.side),
                    },
                )
            )
        },
        {
            "train_filenames": many(text, fewest=1),
            **{f"{split}_filenames": many(text) for split in ("val", "test")},
            "scene_json": text,
            "ply_file_path": text,
            "background": text,
        },
    ),
    _again("dataset"),
)
RENDERS = Document(
    record(
        {
            "views": many(
                record(
                    {"name": shapes.name, "rays": whole(), "seconds": maybe(number), "pose": shapes.pose},
                    {"camera": shapes.camera},
                )
            )
        },
        {"step": maybe(whole())},
    ),
    _again("render"),
)
MANIFEST = Document(
    record({"checkpoint": maybe(shapes.name), "step": maybe(whole()), "sha256": maybe(text)}), _again("train")
)
RESUME = Document(
    record(
        {"identity": text, "checkpoints": many(record({"checkpoint": shapes.name, "step": whole(), "sha256": text}))},
        {"finished": record({"steps": whole(), "checkpoint_sha256": text})},
    ),
    _again("train"),
)
RUN = Document(record({}, {"spec": record({}), "config": record({}), "versions": record({})}), _again("train"))
MESH = Document(
    record(
        {"space": shapes.word("world", "scene"), "world_from_scene": _SIM3, "aabb_scene": shapes.box},
        {"vertices": whole(), "faces": whole(), "components": whole(), "watertight": shapes.boolean},
    ),
    _again("mesh"),
)
COMPARED = Document(
    record({}, {"settings": record({}, {"geometry": record({}), "surface": maybe(record({}))})}), _again("geometry")
)
STATUS = Document(
    record(
        {"state": shapes.word("ok", "infeasible"), "stage": text},
        {"reason": text, "numbers": record({}), "spec": record({})},
        closed=True,
    ),
    "delete it and run its stage again",
)
LEDGER = Document(
    record(
        {"stage": text, "wall_s": number, "cpu_s": number},
        {"peak_rss_bytes": maybe(whole()), "peak_gpu_bytes": maybe(whole()), "started_unix_s": number},
    ),
    "delete it: it only holds what its stage cost",
)
TRUTH = Document(
    record(
        {},
        {
            "subject": shapes.word("card", "object"),
            "seed": whole(),
            "texels_per_metre": shapes.between(0, 1e5),
            "truth_from_camera": mapping(shapes.pose, shapes.name),
        },
    ),
    "delete the scene's folder and make the capture again",
)
STUDY = Document(
    record(
        {
            "study": shapes.name,
            "runs": many(
                record(
                    {
                        "id": text,
                        "cell": text,
                        "scene": shapes.name,
                        **dict.fromkeys(("dir", "dataset_dir", "poses_dir"), text),
                    }
                )
            ),
        },
        {
            "scenes": mapping(record({}), shapes.name),
            "paths": mapping(record({}), shapes.name),
            "config": record({}, {"geometry": record({}, {"thresholds": many(positive)})}),
        },
    ),
    _again("tables"),
)
