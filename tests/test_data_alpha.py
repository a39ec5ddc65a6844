"""Alpha: blended as physics has it, averaged by what is seen, against sums written out pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from data.alpha import BACKGROUNDS, background_colour, blend, blend_uint8, read_shown, shrink_straight
from fieldbook.errors import UserError

pictures = arrays(np.uint8, st.tuples(st.integers(2, 12), st.integers(2, 12), st.just(4)))
backgrounds = st.sampled_from(sorted(BACKGROUNDS))


def blended(rgba: np.ndarray, background: str) -> np.ndarray:
    out = np.zeros((*rgba.shape[:2], 3))
    for i, j, c in np.ndindex(out.shape):
        a = rgba[i, j, 3] / 255
        out[i, j, c] = a * rgba[i, j, c] + (1 - a) * 255 * background_colour(background)[c]
    return out


@given(pictures, backgrounds)
def test_blending_is_alpha_times_colour_plus_the_rest_of_the_background(rgba, background):
    expected = blended(rgba, background)
    np.testing.assert_allclose(blend(rgba / 255.0, background) * 255, expected, atol=1e-9)
    assert np.abs(blend_uint8(rgba, background) - expected).max() <= 0.5 + 1e-9


@given(pictures, backgrounds, st.integers(1, 12), st.integers(1, 12))
def test_shrinking_and_blending_commute(rgba, background, width, height):
    height, width = min(height, rgba.shape[0]), min(width, rgba.shape[1])
    small = shrink_straight(rgba, (width, height))
    assert small.shape == (height, width, 4)
    rows, columns = (shares(n, m) for n, m in zip(rgba.shape[:2], (height, width), strict=True))
    expected = np.einsum("ij,jkc,lk->ilc", rows, blended(rgba, background), columns)
    # Colour and alpha are each rounded to 8 bits, half a level off at most; neither weighs more than 1 in the blend.
    assert np.abs(blended(small, background) - expected).max() <= 1.0 + 1e-3


def shares(source: int, target: int) -> np.ndarray:
    """``[target, source]``: share of each source pixel under each target pixel."""
    edges = np.arange(target + 1) * source / target
    pixels = np.arange(source)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.clip(covered, 0, None) * target / source


@given(pictures)
def test_the_colour_of_what_is_not_seen_does_not_bleed_in(rgba):
    rgba[:, 0, 3] = 0
    other = rgba.copy()
    other[..., :3][rgba[..., 3] == 0] = 200
    size = (rgba.shape[1] // 2, rgba.shape[0] // 2)
    np.testing.assert_array_equal(shrink_straight(rgba, size), shrink_straight(other, size))


def test_a_picture_is_shown_blended_only_where_it_has_alpha_and_there_is_a_background(tmp_path):
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[0] = (200, 100, 50, 255)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    Image.fromarray(rgba[..., :3]).save(tmp_path / "b.png")
    for name, background, behind in (("a", "white", 255), ("a", "black", 0), ("b", "white", 0), ("a", None, 0)):
        shown = read_shown(tmp_path / f"{name}.png", background)
        assert (shown.dtype, shown.shape) == (np.uint8, (2, 3, 3))
        assert shown[0, 0].tolist() == [200, 100, 50]
        assert (shown[1] == behind).all()


def test_an_unknown_background_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="no background 'wite'; allowed: black, white; did you mean 'white'"):
        background_colour("wite")
