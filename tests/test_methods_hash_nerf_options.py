"""hash-nerf's options do what its config says: loss, background, training stop, bounds, presets, appearance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import SceneBox
from torch import Tensor
from torch.nn import functional as F

from methods.hash_nerf import model as hash_nerf_model
from methods.hash_nerf.config import HashNerfModelConfig, hash_nerf_config
from methods.hash_nerf.pipeline import FIRST_RAYS
from methods.presets import preset_overrides
from methods.runner.config import FieldbookDataParserConfig
from methods.runner.overrides import apply_overrides

HALF, FAR = 1.5, 10.0
GRID = {"num_levels": 2, "base_res": 4, "max_res": 16, "log2_hashmap_size": 8, "occupancy_res": 16}
SMALL = {**GRID, "hidden_dim": 16, "march_steps": 64, "far_plane": FAR}
COLOUR = torch.tensor([0.2, 0.4, 0.6])
ALPHA = {"background": COLOUR}  # of a dataset whose pictures have an alpha channel
PICTURES = 3


def _build(config: HashNerfModelConfig, metadata: dict[str, Tensor] | None = None) -> Any:
    torch.manual_seed(0)
    return config.setup(
        scene_box=SceneBox(torch.tensor([[-HALF] * 3, [HALF] * 3])), num_train_data=PICTURES, metadata=metadata
    )


def _model(metadata: dict[str, Tensor] | None = None, **options: Any) -> Any:
    """A small model of a fog that is not the same everywhere."""
    model = _build(HashNerfModelConfig(**{**SMALL, **options}), metadata)
    torch.nn.init.uniform_(model.field.encoding.table, -1, 1)
    return model


def _rays(number: int = 48, distance: float = 4.0, picture: int | None = None) -> RayBundle:
    """From all sides to the middle; of one picture, or of all in turn."""
    draw = torch.Generator().manual_seed(0)
    origins = F.normalize(torch.randn(number, 3, generator=draw), dim=-1) * distance
    directions = F.normalize(0.5 * torch.randn(number, 3, generator=draw) - origins, dim=-1)
    pictures = torch.arange(number) % PICTURES if picture is None else torch.full((number,), picture)
    return RayBundle(origins, directions, torch.full((number, 1), 1e-6), camera_indices=pictures[:, None])


def _step(model: Any, rays: RayBundle, seed: int = 0) -> dict[str, Tensor]:
    """A training step's outputs; the seed draws where the march begins, then the background."""
    torch.manual_seed(seed)
    return model.train().get_outputs(rays)


def _render(model: Any, rays: RayBundle) -> dict[str, Tensor]:
    with torch.no_grad():
        return model.eval().get_outputs(rays)


# --- loss


def _huber(made: Tensor, truth: Tensor) -> Tensor:
    return F.huber_loss(made, truth, delta=0.1)


@pytest.mark.parametrize(("loss", "function"), [("mse", F.mse_loss), ("huber", _huber)])
def test_the_loss_is_torchs(loss: str, function: Callable[[Tensor, Tensor], Tensor]):
    model = _model(loss=loss)
    outputs, truth = _step(model, _rays()), torch.rand(48, 3)
    far_off = (outputs["rgb"] - truth).abs() > 0.1
    assert 0 < far_off.sum() < far_off.numel()  # Huber's parabola and its lines
    losses = model.get_loss_dict(outputs, {"image": truth})
    assert list(losses) == ["rgb_loss"]
    assert torch.equal(losses["rgb_loss"], function(outputs["rgb"], truth))


# --- background


@pytest.mark.parametrize("background", ["white", "black", "random"])
def test_training_blends_field_and_pictures_over_the_same_background(background: str):
    model, rays = _model(background=background, loss="mse"), _rays()
    outputs, dark = _step(model, rays), _step(_model(background="black"), rays)["rgb"]
    behind = 1 - outputs["accumulation"]
    assert 0.1 < behind.mean() < 0.95
    torch.testing.assert_close(outputs["rgb"], dark + behind * outputs["background"])
    picture = torch.rand(48, 4)
    truth = picture[:, :3] * picture[:, 3:] + outputs["background"] * (1 - picture[:, 3:])
    made = model.get_loss_dict(outputs, {"image": picture})["rgb_loss"]
    torch.testing.assert_close(made, F.mse_loss(outputs["rgb"], truth))


@pytest.mark.parametrize(("background", "value"), [("white", 1.0), ("black", 0.0)])
def test_a_named_background_is_that_colour(background: str, value: float):
    assert (_step(_model(background=background), _rays())["background"] == value).all()


def test_a_random_background_differs_from_ray_to_ray_channel_to_channel_and_step_to_step():
    model = _model(background="random")
    first, second = (_step(model, _rays(), seed)["background"] for seed in (0, 1))
    assert len({float(v) for v in torch.cat([first, second]).flatten()}) == 2 * 48 * 3
    assert first.min() >= 0
    assert first.max() <= 1
    assert first.mean() == pytest.approx(0.5, abs=0.1)  # of 144 numbers: 4 standard deviations


@pytest.mark.parametrize(("background", "value"), [("white", 1.0), ("black", 0.0), ("random", 0.5)])
@pytest.mark.parametrize("metadata", [None, ALPHA])
def test_renders_stand_before_the_datasets_colour_or_else_the_trained_one(
    background: str, value: float, metadata: dict[str, Tensor] | None
):
    model = _model(metadata, background=background)
    want = torch.full((3,), value) if metadata is None else COLOUR
    assert torch.equal(model.render_background(), want)
    model.occupancy.occupied.zero_()
    assert torch.equal(_render(model, _rays())["rgb"], want.expand(48, 3))


# --- training stop


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Where each first look at the density stopped."""
    real, seen = hash_nerf_model.march_visible, []

    def look(*arguments: Any) -> Any:
        seen.append(arguments[-1])
        return real(*arguments)

    monkeypatch.setattr(hash_nerf_model, "march_visible", look)
    return seen


def _with_and_without_a_stop(rays: RayBundle, **options: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    stopping, plain = (_step(_model(training_stop=stop, **options), rays) for stop in (1e-3, 0.0))
    return stopping, plain


@pytest.mark.parametrize(("unbounded", "distance"), [(False, 4.0), (True, 18.0)])
def test_without_a_training_stop_the_march_is_plain_and_a_thin_fog_looks_the_same(
    stops: list[float], unbounded: bool, distance: float
):
    options = {"unbounded": unbounded, "cone_angle": 0.05, "initial_density": 0.02}  # the first step from afar is long
    stopping, plain = _with_and_without_a_stop(_rays(distance=distance), **options)
    assert stops == [1e-3]
    assert plain["accumulation"].mean() > 0.01
    assert plain["accumulation"].max() < 0.9
    assert plain["num_samples"] == stopping["num_samples"] > 500
    for name in ("rgb", "accumulation", "depth"):
        torch.testing.assert_close(stopping[name], plain[name], rtol=0, atol=1e-5)  # t up to 10, in rounds


def test_a_training_stop_leaves_out_what_stands_behind_a_thick_fog(stops: list[float]):
    stopping, plain = _with_and_without_a_stop(_rays(), unbounded=False, initial_density=30.0)
    assert stops == [1e-3]
    assert stopping["num_samples"] < 0.5 * plain["num_samples"]
    torch.testing.assert_close(stopping["rgb"], plain["rgb"], rtol=0, atol=2e-3)  # 1e-3 of light, before two colours


# --- bounds


@pytest.mark.parametrize(
    ("unbounded", "metadata", "goes_on"),
    [
        (True, None, True),
        (True, ALPHA, True),
        (False, None, False),
        (False, ALPHA, False),
        (None, None, True),
        (None, ALPHA, False),
    ],
)
def test_unbounded_decides_boxes_step_growth_and_contraction(
    unbounded: bool | None, metadata: dict[str, Tensor] | None, goes_on: bool
):
    model = _model(metadata, unbounded=unbounded, cone_angle=0.01)
    assert model.march.cascades == (4 if goes_on else 1)  # 1.5 * 2^3 reaches the far plane, 10; 1.5 * 2^2 does not
    assert model.march.cone_angle == (0.01 if goes_on else 0.0)
    assert model.occupancy.occupied.shape == (model.march.cascades, 16, 16, 16)
    face, twice, far = model.field.space.to_unit(HALF * torch.tensor([[1.0, 0, 0], [2, 0, 0], [100, 0, 0]]))[:, 0]
    # Equation 10 of Barron et al. 2022 for norms 1, 2 and 100, of the cube's half side 2; without it the box is all.
    want = [0.75, 0.875, 0.9975] if goes_on else [1.0, 1.0, 1.0]
    assert [float(face), float(twice), float(far)] == pytest.approx(want)


def test_there_are_no_more_boxes_than_allowed():
    assert [_model(far_plane=1000.0, max_cascades=most).march.cascades for most in (1, 2, 5)] == [1, 2, 5]


# --- presets


@pytest.mark.parametrize("preset", ["smoke", "laptop", "paper"])
def test_every_preset_builds_what_it_says_and_takes_a_step(preset: str):
    """At full size, unbounded, with as many rays as the first step of a run has."""
    config: Any = hash_nerf_config()
    config.pipeline.datamanager.dataparser = FieldbookDataParserConfig()
    apply_overrides(config, preset_overrides("hash-nerf", preset))
    model, c = _build(config.pipeline.model), config.pipeline.model
    assert model.field.encoding.grid.width == c.num_levels * c.features_per_level
    assert [w.shape[0] for w in model.field.colour_net.weights] == [*[c.hidden_dim] * c.num_layers_color, 3]
    assert model.occupancy.occupied.shape[1:] == (c.occupancy_res,) * 3
    outputs = _step(model, _rays(FIRST_RAYS))
    assert outputs["num_samples"] > FIRST_RAYS
    losses = model.get_loss_dict(outputs, {"image": torch.rand(FIRST_RAYS, 3)})
    torch.stack([*losses.values()]).sum().backward()
    groups = model.get_param_groups()
    assert set(groups) == set(config.optimizers)
    gradients = [p.grad for group in groups.values() for p in group if p.numel()]
    assert all(g is not None and torch.isfinite(g).all() and g.any() for g in gradients)


# --- appearance


def _with_codes(picture: int | None = None) -> Any:
    """A model whose pictures look different; all like one of them, if one is named."""
    model = _model(appearance_embedding_dim=4, initial_density=1.0, background="black")
    codes = torch.nn.init.normal_(model.field.appearance.weight.data)
    if picture is not None:
        codes.copy_(codes[picture].clone().expand_as(codes))
    return model


def test_renders_use_the_mean_of_the_appearance_codes():
    model, rays = _with_codes(), _rays()
    made, codes = _render(model, rays)["rgb"], model.field.appearance.weight.data
    codes.copy_(codes.mean(dim=0).expand_as(codes))
    torch.testing.assert_close(_render(model, rays)["rgb"], made)
    codes.add_(1)
    assert (_render(model, rays)["rgb"] - made).abs().max() > 0.01


def test_training_uses_each_pictures_own_appearance_code():
    rays, model = _rays(), _with_codes()
    made = _step(model, rays)["rgb"]
    alone = torch.stack([_step(_with_codes(picture), rays)["rgb"] for picture in range(PICTURES)])
    torch.testing.assert_close(made, alone[torch.arange(48) % PICTURES, torch.arange(48)])
    assert min((alone[i] - alone[i - 1]).abs().max() for i in range(PICTURES)) > 0.01
    _step(model, _rays(picture=1))["rgb"].sum().backward()
    assert model.field.appearance.weight.grad.any(dim=1).tolist() == [False, True, False]


# --- occupancy of nested boxes


def test_a_cell_is_as_occupied_as_a_step_of_its_own_box_is_opaque():
    """Of a fog the same everywhere, an outer box's longer step takes away more light than an inner one's."""
    model = _model(unbounded=True, initial_density=0.5)
    torch.nn.init.zeros_(model.field.density_net.weights[-1])  # exp(0) of the initial density
    model.update_occupancy(16)
    step = model.march.step_min * 2.0 ** torch.arange(model.march.cascades)
    own = torch.stack([box[box >= 0].max() for box in model.occupancy.density])
    assert torch.allclose(own, -torch.expm1(-step * 0.5 / HALF), rtol=1e-5)
