"""MP4 files: every picture arrives, in order, and odd sizes are padded."""

import av
import numpy as np
import pytest

from camera_paths.video import write_mp4


def decode(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(stream)]
        return frames, float(stream.average_rate or 0), stream.codec_context.pix_fmt, stream.codec_context.name


def test_pictures_come_back_in_order_padded_by_their_edge(tmp_path):
    levels = [20, 120, 220, 60]
    pictures = (np.full((33, 47, 3), level, np.uint8) for level in levels)
    assert write_mp4(pictures, tmp_path / "new" / "p.mp4", 12.5) == 4
    frames, rate, pix_fmt, codec = decode(tmp_path / "new" / "p.mp4")
    assert [f.shape for f in frames] == [(34, 48, 3)] * 4
    np.testing.assert_allclose([f.mean() for f in frames], levels, atol=3)
    np.testing.assert_allclose(frames[1][-1, -1], 120, atol=4)
    assert (rate, pix_fmt, codec) == (12.5, "yuv420p", "h264")


def test_a_failed_video_leaves_no_file(tmp_path):
    pictures = [np.zeros((16, 16, 3), np.uint8), np.zeros((16, 18, 3), np.uint8)]
    with pytest.raises(ValueError, match="picture 1 is"):
        write_mp4(pictures, tmp_path / "p.mp4", 10)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pictures", [[], [np.zeros((16, 16, 3), np.float32)], [np.zeros((16, 16), np.uint8)]])
def test_what_is_no_picture_is_refused(tmp_path, pictures):
    with pytest.raises(ValueError, match="picture"):
        write_mp4(pictures, tmp_path / "p.mp4", 10)
