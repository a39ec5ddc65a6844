"""Points, COLMAP models and checkpoints as somebody may have sent them: read, or refused in one line, never run."""

from __future__ import annotations

import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest

from data.colmap_model import read_model
from data.points import read_points, write_points
from data.scene_frame import read_cloud

from .safety_harness import bounded, refused

POINTS = np.arange(21, dtype=np.float64).reshape(7, 3)
COLOURS = np.arange(21, dtype=np.uint8).reshape(7, 3)
XYZ = "property float x\nproperty float y\nproperty float z\n"
RGB = "property uchar red\nproperty uchar green\nproperty uchar blue\n"


def ply(header: str, body: bytes | str = b"", form: str = "binary_little_endian") -> bytes:
    content = body if isinstance(body, bytes) else body.encode()
    return f"ply\nformat {form} 1.0\n{header}end_header\n".encode() + content


def text_ply(*rows: str, count: int | None = None) -> bytes:
    return ply(f"element vertex {len(rows) if count is None else count}\n{XYZ}{RGB}", "\n".join(rows) + "\n", "ascii")


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


VERTEX = f"element vertex 1\n{XYZ}"
CLOUDS: dict[str, bytes | Callable[[bytes], bytes]] = {
    "empty": b"",
    "random bytes": np.random.default_rng(0).bytes(5000),
    "an archive": b"PK\x03\x04" + bytes(500),
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(500),
    "no end of its header": lambda whole: whole[: whole.index(b"end_header")],
    "header beyond all length": b"ply\n" + b"comment x\n" * 10_000 + b"end_header\n",
    "cut in its points": lambda whole: whole[:-5],
    "something after its points": lambda whole: whole + b"\0",
    "more points than bytes": lambda whole: whole.replace(b"vertex 7", b"vertex 8"),
    "fewer points than bytes": lambda whole: whole.replace(b"vertex 7", b"vertex 6"),
    "a billion billion points": lambda whole: whole.replace(b"vertex 7", b"vertex 999999999999999"),
    "a count of 400 digits": lambda whole: whole.replace(b"vertex 7", b"vertex " + b"9" * 400),
    "negative count": lambda whole: whole.replace(b"vertex 7", b"vertex -7"),
    "count that is none": lambda whole: whole.replace(b"vertex 7", b"vertex many"),
    "unknown form": lambda whole: whole.replace(b"binary_little_endian", b"binary_middle_endian"),
    "two forms": ply(f"format ascii 1.0\n{VERTEX}", floats(1, 2, 3)),
    "no form": f"ply\n{VERTEX}end_header\n".encode() + floats(1, 2, 3),
    "unknown type": ply("element vertex 1\nproperty quad x\nproperty float y\nproperty float z\n", bytes(24)),
    "a list": ply(f"{VERTEX}property list uchar int near\n", floats(1, 2, 3) + b"\0"),
    "a property twice": ply(f"{VERTEX}property float x\n", floats(1, 2, 3, 4)),
    "a property of nothing": ply("property float x\n"),
    "no z": ply("element vertex 1\nproperty float x\nproperty float y\n", floats(1, 2)),
    "faces before points": ply(f"element face 1\nproperty list uchar int i\n{VERTEX}", floats(1, 2, 3)),
    "faces alone": ply("element face 1\nproperty list uchar int i\n", b"\0"),
    "nan": ply(VERTEX, floats(1, float("nan"), 3)),
    "a nan that signals": ply(VERTEX, floats(1, 2) + bytes.fromhex("037a9fff")),
    "infinity": ply(VERTEX, floats(1, float("inf"), 3)),
    "beyond all distances": ply("element vertex 1\nproperty double x\nproperty float y\nproperty float z\n",
                                struct.pack("<dff", 1e300, 0, 0)),
    "words for numbers": text_ply("a b c 1 2 3"),
    "too few rows": text_ply("1 2 3 4 5 6", count=2),
    "too many rows": text_ply("1 2 3 4 5 6", "1 2 3 4 5 6", count=1),
    "nan in words": text_ply("1 nan 3 4 5 6"),
    "colour above 255": text_ply("1 2 3 4 5 256"),
    "colour below 0": text_ply("1 2 3 -4 5 6"),
    "huge count in text": text_ply("1 2 3 4 5 6", count=10**14),
}  # fmt: skip


@pytest.mark.parametrize("case", CLOUDS)
def test_a_damaged_file_of_points_is_refused(tmp_path: Path, case: str):
    path, change = tmp_path / "points.ply", CLOUDS[case]
    write_points(path, POINTS, COLOURS)
    path.write_bytes(change if isinstance(change, bytes) else change(path.read_bytes()))
    assert "points.ply" in refused(lambda: read_points(path), tmp_path)


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_of_points_is_not_waited_for(tmp_path: Path, make: Callable[[Path], Any]):
    make(tmp_path / "points.ply")
    assert "points.ply" in refused(lambda: read_points(tmp_path / "points.ply"))


ROWS = [" ".join(f"{v:g}" for v in (*p, *c)) for p, c in zip(POINTS, COLOURS, strict=True)]
KIND = np.dtype([("xyz", "<f4", 3), ("more", "<f8"), ("rgb", "u1", 3)])
TABLE = np.zeros(7, KIND)
TABLE["xyz"], TABLE["rgb"] = POINTS, COLOURS
FORMS = {
    "text": text_ply(*ROWS),
    "comments and windows line ends": text_ply(*ROWS).replace(b"element", b"comment x y\nobj_info z\nelement", 1)
    .replace(b"\n", b"\r\n"),
    "other properties between": ply(f"element vertex 7\n{XYZ}property double more\n{RGB}", TABLE.tobytes()),
    "big endian": ply(f"element vertex 7\n{XYZ}property double more\n{RGB}",
                      TABLE.astype(KIND.newbyteorder(">")).tobytes(), "binary_big_endian"),
    "faces after it": ply(f"element vertex 7\n{XYZ}property double more\n{RGB}element face 1\n"
                          "property list uchar int i\n", TABLE.tobytes() + b"\x03" + bytes(12)),
}  # fmt: skip


@pytest.mark.parametrize("content", FORMS.values(), ids=FORMS)
def test_every_form_of_the_format_is_read(tmp_path: Path, content: bytes):
    (tmp_path / "a.ply").write_bytes(content)
    points, colours = read_points(tmp_path / "a.ply")
    np.testing.assert_array_equal(points, POINTS)
    np.testing.assert_array_equal(colours, COLOURS)


def test_points_without_colours_and_no_points_are_read(tmp_path: Path):
    (tmp_path / "a.ply").write_bytes(ply(VERTEX, floats(1, 2, 3)))
    points, colours = read_points(tmp_path / "a.ply")
    assert (points.tolist(), colours) == ([[1, 2, 3]], None)
    (tmp_path / "a.ply").write_bytes(ply(VERTEX.replace("vertex 1", "vertex 0")))
    assert read_points(tmp_path / "a.ply")[0].shape == (0, 3)


def tiny_model() -> pycolmap.Reconstruction:
    """One camera, three images, five points that all three see."""
    model = pycolmap.Reconstruction()
    lens = {"model": "SIMPLE_RADIAL", "width": 64, "height": 48, "params": [50.0, 32, 24, 0.01]}
    model.add_camera_with_trivial_rig(pycolmap.Camera(camera_id=1, **lens))
    for k in range(3):
        key_points = [pycolmap.Point2D(np.array([5.0 * j + k, 7.0 * j])) for j in range(6)]
        image = pycolmap.Image(name=f"frame_{k:05d}.png", camera_id=1, image_id=k + 1, points2D=key_points)
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(), np.array([k, 0, 0.0]))
        model.add_image_with_trivial_frame(image, pose)
    for p in range(5):
        track = pycolmap.Track()
        for k in range(3):
            track.add_element(k + 1, p)
        model.add_point3D(np.array([p, 1.0, 5.0]), track, np.array([p, 2, 3], np.uint8))
    return model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model().write(str(folder))
    return folder


@pytest.fixture
def copied(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "sparse"))


def put(at: int, form: str, *values: Any) -> Callable[[bytearray], None]:
    """Write little-endian values at a place; a negative one counts from the end."""

    def change(content: bytearray) -> None:
        struct.pack_into(f"<{form}", content, at % len(content), *values)

    return change


def cut(size: int) -> Callable[[bytearray], None]:
    def change(content: bytearray) -> None:
        del content[size:]

    return change


def no_name_end(content: bytearray) -> None:
    content[:] = content[:77]


NAN = float("nan")
# Offsets by COLMAP's format: cameras 8 id, 12 model, 16 width, 24 height, 32 parameters; images 8 id, 12 pose, 68
# camera, 72 name; points 8 id, 16 xyz, 43 error, 51 track's length, 59 its entries; frames 8 id, 12 rig, 16 pose.
MODELS: dict[str, tuple[str, Callable[[bytearray], Any]]] = {
    f"{name} {what}": (f"{name}.bin", change)
    for name in ("cameras", "images", "points3D", "rigs", "frames")
    for what, change in {
        "empty": cut(0),
        "cut in its count": cut(5),
        "cut in its records": cut(22),
        "goes on": lambda content: content.extend(b"\0"),
        "counts 2^63": put(0, "Q", 2**63),
        "counts 10^7": put(0, "Q", 10**7),
        "counts none": put(0, "Q", 0),
        "random": lambda content: content.__setitem__(slice(None), os.urandom(len(content))),
    }.items()
} | {
    "unknown camera model": ("cameras.bin", put(12, "i", 99)),
    "negative camera model": ("cameras.bin", put(12, "i", -1)),
    "camera model of other size": ("cameras.bin", put(12, "i", 6)),
    "camera without width": ("cameras.bin", put(16, "Q", 0)),
    "camera as wide as the sky": ("cameras.bin", put(16, "Q", 2**40)),
    "negative focal length": ("cameras.bin", put(32, "d", -50.0)),
    "focal length nan": ("cameras.bin", put(32, "d", NAN)),
    "camera of another number": ("cameras.bin", put(8, "I", 7)),
    "image twice": ("images.bin", put(8, "I", 2)),
    "image of no camera": ("images.bin", put(68, "I", 9)),
    "image with a pose of zeros": ("images.bin", put(12, "7d", *[0.0] * 7)),
    "image with a pose of nan": ("images.bin", put(12, "d", NAN)),
    "image out of the folder": ("images.bin", put(72, "15s", b"../../../../x.p")),
    "image without the end of its name": ("images.bin", no_name_end),
    "more key points than bytes": ("images.bin", put(88, "Q", 2**50)),
    "key point that sees a point of nobody": ("images.bin", put(-8, "Q", 4)),
    "point at nan": ("points3D.bin", put(16, "d", NAN)),
    "point at infinity": ("points3D.bin", put(16, "d", float("inf"))),
    "point twice": ("points3D.bin", put(8, "Q", 2)),
    "track longer than the file": ("points3D.bin", put(51, "Q", 2**61)),
    "point seen by no image": ("points3D.bin", put(59, "I", 77)),
    "point seen by no key point": ("points3D.bin", put(63, "I", 2**31)),
    "point seen by another's key point": ("points3D.bin", put(63, "I", 3)),
    "rig of no camera": ("rigs.bin", put(-4, "I", 9)),
    "rig with thousands of sensors": ("rigs.bin", put(12, "I", 10**9)),
    "sensor of another kind": ("rigs.bin", put(-8, "i", 1)),
    "frame of no rig": ("frames.bin", put(12, "I", 9)),
    "frame of no image": ("frames.bin", put(-8, "Q", 99)),
    "image in two frames": ("frames.bin", put(-8, "Q", 1)),
    "frame with millions of images": ("frames.bin", put(72, "I", 10**9)),
    "frame with a pose of nan": ("frames.bin", put(16, "d", NAN)),
}  # fmt: skip


@pytest.mark.parametrize(("name", "change"), MODELS.values(), ids=MODELS)
def test_a_damaged_colmap_model_is_refused_before_colmap_reads_it(
    copied: Path, monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[bytearray], Any]
):
    content = bytearray((copied / name).read_bytes())
    change(content)
    (copied / name).write_bytes(content)
    monkeypatch.setattr(pycolmap, "Reconstruction", lambda path: pytest.fail("COLMAP was let near it"))
    message = refused(lambda: read_cloud(copied, ["frame_00000.png"]), copied)
    assert "not a whole COLMAP model" in message


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin", "rigs.bin", "frames.bin"])
@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_file_of_a_model_that_is_none_is_named(copied: Path, name: str, make: Callable[[Path], Any]):
    (copied / name).unlink()
    make(copied / name)
    assert name in refused(lambda: read_model(copied), copied)


def test_a_whole_model_is_read_as_colmap_reads_it(copied: Path):
    with bounded():
        cloud = read_cloud(copied, [f"frame_{k:05d}.png" for k in range(3)])
    assert sorted(cloud.points[:, 0]) == [0, 1, 2, 3, 4]
    assert len(cloud.point_of) == 15
    for name in ("rigs.bin", "frames.bin"):  # which COLMAP before 3.12 did not write
        (copied / name).unlink()
    assert read_model(copied).num_reg_images() == 3


class _Call:
    """Pickled, it is a call that makes a file when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def with_call(path: Path, mark: Path) -> None:
    import torch

    torch.save({"step": 3, "pipeline": {}, "x": _Call(mark)}, path)


def bare_pickle(path: Path, mark: Path) -> None:
    path.write_bytes(pickle.dumps({"step": 3, "pipeline": {}, "x": _Call(mark)}))


def repacked(path: Path, method: int) -> None:
    """A checkpoint of 4 MB of zeros, packed to some kilobytes."""
    import torch

    torch.save({"step": 3, "pipeline": {"w": torch.zeros(1 << 20)}}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(path.with_suffix(".zip"), "w", method) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    path.with_suffix(".zip").replace(path)


def saved(value: Any) -> Callable[[Path, Path], None]:
    def write(path: Path, mark: Path) -> None:
        import torch

        torch.save(value, path)

    return write


CHECKPOINTS: dict[str, Callable[[Path, Path], Any]] = {
    "empty": lambda path, mark: path.touch(),
    "random bytes": lambda path, mark: path.write_bytes(os.urandom(5000)),
    "text": lambda path, mark: path.write_text("weights"),
    "cut in half": lambda path, mark: (saved({"step": 3})(path, mark), os.truncate(path, path.stat().st_size // 2)),
    "a call": with_call,
    "a call in a bare pickle": bare_pickle,
    "packed": lambda path, mark: repacked(path, zipfile.ZIP_DEFLATED),
    "a list": saved([1, 2]),
    "no step": saved({"pipeline": {}}),
    "step that is a text": saved({"step": "3", "pipeline": {}}),
    "no tensors": saved({"step": 3, "pipeline": None}),
    "an empty archive": lambda path, mark: zipfile.ZipFile(path, "w").close(),
    "another archive": lambda path, mark: zipfile.ZipFile(path, "w").writestr("../../x", b"y"),
}


@pytest.mark.parametrize("make", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_checkpoint_that_is_no_plain_tensors_is_refused_and_not_run(
    tmp_path: Path, make: Callable[[Path, Path], Any]
):
    from fieldbook.files import sha256_file, write_json
    from fieldbook.layout import RunFiles
    from methods.runner.checkpoint import checkpoint_path, newest_checkpoint, read_checkpoint

    run, mark = RunFiles(tmp_path / "run"), tmp_path / "pwned"
    path = checkpoint_path(run, 3)
    path.parent.mkdir(parents=True)
    make(path, mark)
    entry = {"checkpoint": path.name, "step": 3, "sha256": sha256_file(path)}
    write_json(run.checkpoint_manifest, entry)
    refused(lambda: read_checkpoint(run), tmp_path)
    write_json(run.resume, {"identity": "i", "checkpoints": [entry]})
    with bounded():
        assert newest_checkpoint(run, "i") is None  # training starts from scratch
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../../elsewhere.ckpt", "/tmp/elsewhere.ckpt", "", "..", 5])
def test_a_manifest_cannot_name_a_checkpoint_elsewhere(tmp_path: Path, name: Any):
    from fieldbook.files import sha256_file, write_json
    from fieldbook.layout import RunFiles
    from methods.runner.checkpoint import newest_checkpoint, read_checkpoint

    run, other = RunFiles(tmp_path / "a" / "run"), tmp_path / "a" / "elsewhere.ckpt"
    run.checkpoints.mkdir(parents=True)
    saved({"step": 3, "pipeline": {}})(other, other)
    write_json(run.checkpoint_manifest, {"checkpoint": name, "step": 3, "sha256": sha256_file(other)})
    assert "checkpoint" in refused(lambda: read_checkpoint(run), tmp_path)
    write_json(run.resume, {"identity": "i", "checkpoints": [{"checkpoint": name, "step": 3, "sha256": "x"}]})
    assert newest_checkpoint(run, "i") is None
    assert other.exists()
