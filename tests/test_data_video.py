"""Capture and frame extraction, checked on small films whose every frame is known."""

import struct
import sys
import types
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data.readers import ImageSource, VideoSource, natural_key
from data.video import even_picks, extract, ingest, sharpest_picks, sharpness
from fieldbook.errors import UserError
from fieldbook.files import read_json
from fieldbook.layout import SceneFiles

SIZE = (96, 64)  # width, height


def gray_level(index: int) -> int:
    return 20 + 5 * index


def flat_frames(count: int) -> list[np.ndarray]:
    """Frame i is flat with a level that tells i, but for a white top-left corner that tells the orientation."""
    frames = [np.full((SIZE[1], SIZE[0], 3), gray_level(i), np.uint8) for i in range(count)]
    for frame in frames:
        frame[:16, :16] = 255
    return frames


def film(
    path: Path, frames: list[np.ndarray], times_ms: list[int] | None = None, aspect: Fraction | None = None
) -> Path:
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"qp": "4"})
        stream.width, stream.height = frames[0].shape[1], frames[0].shape[0]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 5
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = times_ms[i] if times_ms else 40 * i, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Write [a b; c d] into the MP4 track header (ISO 14496-12, 8.3.2; version 0), as phones do."""
    data = bytearray(path.read_bytes())
    offset = data.index(b"tkhd") + 4 + 40
    assert struct.unpack(">9i", data[offset : offset + 36])[0] == 65536
    one = 65536
    data[offset : offset + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def video_spec(path: Path, count: int | str = "all", pick: str = "sharpest", kind: str = "video") -> dict:
    return {"capture": {"kind": kind, "path": str(path)}, "frames": {"count": count, "pick": pick}}


def run(tmp_path: Path, spec: dict) -> tuple[SceneFiles, dict]:
    files = SceneFiles(tmp_path / "scene")
    ingest(files, spec)
    extract(files, spec)
    return files, read_json(files.raw_index)


def picture(files: SceneFiles, name: str) -> np.ndarray:
    return cv2.imread(str(files.raw / name))


def noisy(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8) for _ in range(count)]


def test_all_frames_come_out_in_order_under_their_source_index(tmp_path):
    files, index = run(tmp_path, video_spec(film(tmp_path / "a.mp4", flat_frames(12))))
    assert [f["name"] for f in index["frames"]] == [f"frame_{i:05d}.png" for i in range(12)]
    assert sorted(p.name for p in files.raw.iterdir()) == [f["name"] for f in index["frames"]]
    for i, frame in enumerate(index["frames"]):
        assert abs(int(picture(files, frame["name"])[40, 60, 1]) - gray_level(i)) <= 3
    assert (index["width"], index["height"]) == SIZE
    capture = read_json(files.capture)
    assert (capture["frame_count"], capture["lost_frames"], capture["truth"]) == (12, 0, False)
    assert capture["fps"] == pytest.approx(25)


def test_exposure_is_the_mean_luma_in_full_range(tmp_path):
    frames = [np.full((64, 96, 3), level, np.uint8) for level in (0, 128, 255)]
    _, index = run(tmp_path, video_spec(film(tmp_path / "a.mp4", frames)))
    assert [f["exposure"] for f in index["frames"]] == pytest.approx([0, 128 / 255, 1], abs=0.02)


def test_the_sharpest_frame_of_each_window_is_taken(tmp_path):
    sharp = [1, 6, 8]  # one in each window of four
    frames = [f if i in sharp else cv2.GaussianBlur(f, (0, 0), 3) for i, f in enumerate(noisy(12))]
    _, index = run(tmp_path, video_spec(film(tmp_path / "a.mp4", frames), count=3))
    assert [f["index"] for f in index["frames"]] == sharp


def test_even_picks_take_first_and_last(tmp_path):
    _, index = run(tmp_path, video_spec(film(tmp_path / "a.mp4", flat_frames(11)), count=3, pick="even"))
    assert [f["index"] for f in index["frames"]] == [0, 5, 10]
    assert even_picks(7, 1) == [0]


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_picks_are_exactly_count_ascending_frames(case):
    total, count = case
    values = [float((7919 * i) % 101) for i in range(total)]
    for picks in (even_picks(total, count), sharpest_picks(values, count)):
        assert len(picks) == count
        assert picks == sorted(set(picks))
        assert 0 <= picks[0] <= picks[-1] < total
    gaps = np.diff(even_picks(total, count))
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


def test_sharpness_is_the_variance_of_the_laplacian():
    luma = np.random.default_rng(1).integers(0, 255, (9, 11)).astype(np.uint8)
    x = np.pad(luma.astype(float), 1, mode="reflect")
    naive = x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:] - 4 * x[1:-1, 1:-1]
    assert sharpness(luma) == pytest.approx(naive.var())


def test_time_stamps_are_the_containers_with_a_variable_frame_rate(tmp_path):
    times = [0, 40, 80, 500, 520, 1900]
    path = film(tmp_path / "a.mkv", flat_frames(6), times)
    files, index = run(tmp_path, video_spec(path, count=3, pick="even"))
    assert [f["index"] for f in index["frames"]] == [0, 3, 5]
    assert [f["time_s"] for f in index["frames"]] == pytest.approx([0, 0.5, 1.9], abs=1e-3)
    assert read_json(files.capture)["lost_frames"] == 0


@pytest.mark.parametrize(
    ("matrix", "size", "white"),
    [
        ((0, 1, -1, 0), (64, 96), (5, 58)),  # a quarter turn clockwise: top left goes to top right
        ((-1, 0, 0, -1), (96, 64), (58, 90)),
        ((0, -1, 1, 0), (64, 96), (90, 5)),
        ((-1, 0, 0, 1), (96, 64), (5, 90)),  # mirrored, as front cameras are
        ((0, 1, 1, 0), (64, 96), (5, 5)),  # transposed
    ],
)
def test_the_display_matrix_is_applied(tmp_path, matrix, size, white):
    path = film(tmp_path / "a.mp4", flat_frames(2))
    set_display_matrix(path, *matrix)
    files, index = run(tmp_path, video_spec(path))
    capture = read_json(files.capture)
    assert (capture["width"], capture["height"]) == (index["width"], index["height"]) == size
    shown = picture(files, "frame_00000.png")
    assert shown.shape[:2] == size[::-1]
    bright = np.argwhere(shown[..., 1] > 200)
    assert len(bright) == pytest.approx(256, abs=20)
    assert np.abs(bright - white).max() <= 16


def test_pixels_that_are_not_square_are_made_square(tmp_path):
    path = film(tmp_path / "a.mp4", flat_frames(2), aspect=Fraction(3, 2))
    files, index = run(tmp_path, video_spec(path))
    assert (index["width"], index["height"]) == (144, 64)
    bright = np.argwhere(picture(files, "frame_00000.png")[..., 1] > 200)
    assert bright.max(axis=0) == pytest.approx([15, 23], abs=1)


def test_a_quarter_turn_agrees_with_the_rotation_that_pyav_reports(tmp_path):
    path = film(tmp_path / "a.mp4", noisy(1))
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0)).to_ndarray(format="rgb24")
    set_display_matrix(path, 0, 1, -1, 0)
    with av.open(str(path)) as container:
        turns = next(container.decode(video=0)).rotation // 90  # counter-clockwise
    assert turns == -1
    np.testing.assert_array_equal(next(iter(VideoSource(path))).rgb(), np.rot90(stored, turns))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_of_a_truncated_film_the_readable_part_is_used_and_the_loss_recorded(tmp_path, suffix):
    whole = film(tmp_path / f"a{suffix}", noisy(30))
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.6)])
    files = SceneFiles(tmp_path / "scene")
    numbers = ingest(files, video_spec(cut))
    assert 10 < numbers["frame_count"] < 25
    assert numbers["expected_frame_count"] == 30
    assert numbers["lost_frames"] == 30 - numbers["frame_count"] == read_json(files.capture)["lost_frames"]
    extract(files, video_spec(cut))
    truth = {frame.time_s: frame.rgb() for frame in VideoSource(whole)}
    for frame in VideoSource(cut):
        np.testing.assert_array_equal(frame.rgb(), truth[frame.time_s])


def test_of_a_film_damaged_in_the_middle_only_clean_frames_are_used(tmp_path):
    whole = film(tmp_path / "a.mp4", noisy(30))
    data = bytearray(whole.read_bytes())
    with av.open(str(whole)) as container:
        hit = [p for p in container.demux(video=0) if p.size][12]
    assert hit.pos is not None
    data[hit.pos : hit.pos + hit.size] = b"\xff" * hit.size
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(data)
    numbers = ingest(SceneFiles(tmp_path / "scene"), video_spec(bad))
    assert 1 <= numbers["lost_frames"] <= 10  # two groups of five pictures at most
    assert numbers["frame_count"] + numbers["lost_frames"] == 30
    truth = {frame.time_s: frame.rgb() for frame in VideoSource(whole)}
    for frame in VideoSource(bad):
        np.testing.assert_array_equal(frame.rgb(), truth[frame.time_s])


def test_two_readings_of_a_damaged_film_give_the_same_frames(tmp_path):
    path = film(tmp_path / "a.mp4", noisy(20))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
    source = VideoSource(path)
    first, second = ([frame.rgb() for frame in source] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_more_frames_than_there_are_is_one_line_with_both_numbers(tmp_path):
    with pytest.raises(UserError, match=r"frames\.count is 9, but the capture has 5"):
        run(tmp_path, video_spec(film(tmp_path / "a.mp4", flat_frames(5)), count=9))


@pytest.mark.parametrize("count", [0, -1, "some", 2.5, True])
def test_a_count_that_is_none_is_refused(tmp_path, count):
    with pytest.raises(UserError, match=r"frames\.count"):
        run(tmp_path, video_spec(film(tmp_path / "a.mp4", flat_frames(2)), count=count))


def sound_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_what_is_no_video_is_one_clear_line(tmp_path):
    (tmp_path / "notes.txt").write_text("hello\n" * 50)
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "empty.mp4").touch()
    Image.new("RGB", SIZE).save(tmp_path / "a.png")
    sound_only(tmp_path / "a.wav")
    no_index = film(tmp_path / "whole.mp4", noisy(5)).read_bytes()[:300]
    (tmp_path / "beheaded.mp4").write_bytes(no_index)
    names = ["notes.txt", "noise.mp4", "empty.mp4", "a.png", "a.wav", "beheaded.mp4", "absent.mp4", "."]
    for name in names:
        with pytest.raises(UserError) as error:
            ingest(SceneFiles(tmp_path / "scene"), video_spec(tmp_path / name))
        assert "\n" not in str(error.value)
        assert str(tmp_path) in str(error.value)


def test_an_unknown_kind_names_the_allowed_ones(tmp_path):
    with pytest.raises(UserError, match="did you mean 'video'"):
        ingest(SceneFiles(tmp_path), video_spec(tmp_path, kind="vidéo"))


@pytest.mark.parametrize(("pick", "count"), [("even", 6), ("even", 3), ("sharpest", 3), ("sharpest", 6)])
@pytest.mark.parametrize("now", [noisy(2), [np.zeros((32, 32, 3), np.uint8)] * 6])
def test_a_capture_that_changed_since_it_was_probed_is_refused_and_leaves_nothing(tmp_path, pick, count, now):
    path = film(tmp_path / "a.mp4", flat_frames(6))
    files = SceneFiles(tmp_path / "scene")
    spec = video_spec(path, count, pick)
    ingest(files, spec)
    film(path, now)
    with pytest.raises(UserError, match="no longer what"):
        extract(files, spec)
    assert not files.raw.exists()
    assert not files.raw_index.exists()


def image_folder(tmp_path: Path, names: list[str]) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for i, name in enumerate(names):
        Image.new("RGB", SIZE, (gray_level(i),) * 3).save(folder / name)
    return folder


def test_images_come_in_natural_order_with_their_own_names_and_no_times(tmp_path):
    names = ["IMG_1.png", "IMG_2.jpg", "IMG_10.JPEG"]
    folder = image_folder(tmp_path, names)
    (folder / "notes.txt").touch()
    (folder / "._IMG_1.png").touch()
    files, index = run(tmp_path, video_spec(folder, kind="images"))
    assert [(f["name"], f["index"], f["source"], f["time_s"]) for f in index["frames"]] == [
        (f"frame_{i:05d}.png", i, name, None) for i, name in enumerate(names)
    ]
    for i in range(3):
        assert abs(int(picture(files, f"frame_{i:05d}.png")[9, 9, 0]) - gray_level(i)) <= 1
    assert read_json(files.capture)["fps"] is None


@given(st.permutations(["a1", "a2", "a10", "B3", "b03", "7", "x"]))
def test_natural_order_is_total_and_numeric(names):
    assert sorted(names, key=natural_key) == ["7", "a1", "a2", "a10", "B3", "b03", "x"]


def test_exif_orientation_is_applied(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    upright = Image.fromarray(flat_frames(1)[0])
    upright.save(folder / "1.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "2.png", exif=exif)
    files, index = run(tmp_path, video_spec(folder, kind="images"))
    assert (index["width"], index["height"]) == SIZE
    first, second = (picture(files, f["name"]) for f in index["frames"])
    np.testing.assert_array_equal(first, second)


def test_the_odd_image_is_named(tmp_path):
    folder = image_folder(tmp_path, ["1.png", "2.png", "3.png"])
    Image.new("RGB", (50, 50)).save(folder / "1.png")
    with pytest.raises(UserError, match=r"1\.png is 50x50.*96x64"):
        ingest(SceneFiles(tmp_path / "scene"), video_spec(folder, kind="images"))


@pytest.mark.parametrize("name", ["2.png", "2.jpg"])
def test_a_truncated_image_is_named(tmp_path, name):
    folder = image_folder(tmp_path, ["1.png"])
    Image.fromarray(noisy(1)[0]).save(folder / name)
    (folder / name).write_bytes((folder / name).read_bytes()[:-900])
    with pytest.raises(UserError, match=name):
        ingest(SceneFiles(tmp_path / "scene"), video_spec(folder, kind="images"))


def test_an_image_of_more_than_8_bits_is_named(tmp_path):
    folder = image_folder(tmp_path, ["1.png"])
    cv2.imwrite(str(folder / "2.png"), np.full((64, 96), 40000, np.uint16))
    with pytest.raises(UserError, match=r"2\.png has more than 8 bits"):
        ingest(SceneFiles(tmp_path / "scene"), video_spec(folder, kind="images"))


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="holds no"):
        ImageSource(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        ImageSource(tmp_path / "absent")


def test_a_synthetic_capture_is_made_then_read_like_a_film(tmp_path, monkeypatch):
    def make_capture(files, capture):
        files.root.mkdir(parents=True)
        film(files.source_video, flat_frames(capture["frames"]))

    module = types.SimpleNamespace(make_capture=make_capture)
    monkeypatch.setitem(sys.modules, "data.synthetic.capture", module)
    spec = {"capture": {"kind": "synthetic", "frames": 4}, "frames": {"count": 2, "pick": "even"}}
    files, index = run(tmp_path, spec)
    assert [f["index"] for f in index["frames"]] == [0, 3]
    capture = read_json(files.capture)
    assert (capture["kind"], capture["source"], capture["truth"]) == ("synthetic", "source.mp4", True)
