"""LPIPS against torchmetrics with the same (random) backbone weights; and the many ways it can be missing."""

import hashlib
import socket
import time
from functools import lru_cache
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from torchmetrics.functional.image import lpips as library

from eval.lpips import _URL, MIN_SIDE, Lpips, load_lpips, weights_name

BACKBONE = {"alex": "alexnet", "vgg": "vgg16"}


@lru_cache
def _random_features(net):
    """A backbone's ``features`` with random weights, built without its (huge) classifier."""
    with torch.device("meta"):
        features = getattr(torchvision.models, BACKBONE[net])(weights=None).features
    generator = torch.Generator().manual_seed(7)
    state = {}
    for name, value in features.state_dict().items():
        fan_in = value[0].numel() if value.ndim > 1 else 100
        state[name] = torch.randn(value.shape, generator=generator) * (2 / fan_in) ** 0.5
    features.load_state_dict(state, assign=True)
    return features


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as an offline user makes it, with files of torchvision's names and key names."""
    path = tmp_path_factory.mktemp("weights")
    for net in BACKBONE:
        state = {f"features.{name}": value for name, value in _random_features(net).state_dict().items()}
        torch.save({**state, "classifier.1.weight": torch.zeros(2, 2)}, path / weights_name(net))
    return path


@lru_cache
def _load(net, folder) -> Lpips:
    network = load_lpips(net, str(folder))
    assert isinstance(network, Lpips), network
    return network


def _pictures(size=(48, 65), seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.random((*size, 3))
    return np.clip(truth + rng.normal(0, 0.1, truth.shape), 0, 1), truth


def _reference_net(net, monkeypatch, spatial=False):
    monkeypatch.setattr(library, "_get_tv_model_features", lambda name, pretrained: _random_features(net))
    return library._NoTrainLpips(net=net, spatial=spatial)


def _batch(image):
    return torch.tensor(image, dtype=torch.float32).permute(2, 0, 1)[None]


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_value_equals_torchmetrics_for_inputs_mapped_to_minus_one_to_one(net, folder, monkeypatch):
    prediction, truth = _pictures()
    score = _load(net, folder).compare([prediction], truth)[0]
    reference = _reference_net(net, monkeypatch)
    mapped = library._lpips_update(_batch(prediction), _batch(truth), reference, normalize=True).item()
    unmapped = library._lpips_update(_batch(prediction), _batch(truth), reference, normalize=False).item()
    assert unmapped != pytest.approx(mapped, rel=1e-2), "the test must tell the two ranges apart"
    assert score.value == pytest.approx(mapped, rel=1e-4)
    assert score.masked is None


@pytest.mark.parametrize("net", ["alex", pytest.param("vgg", marks=pytest.mark.slow)])
def test_masked_value_is_the_mean_of_the_spatial_map_over_the_mask(net, folder, monkeypatch):
    prediction, truth = _pictures()
    mask = np.zeros(truth.shape[:2], bool)
    mask[5:30, 40:60] = True
    score = _load(net, folder).compare([prediction], truth, mask)[0]
    reference = _reference_net(net, monkeypatch, spatial=True)
    spatial = reference(_batch(prediction), _batch(truth), normalize=True)[0, 0].numpy()
    assert score.masked == pytest.approx(spatial[mask].mean(), rel=1e-4)
    assert score.masked != pytest.approx(spatial.mean(), rel=1e-4)


def test_several_predictions_are_scored_as_if_alone_and_equal_pictures_are_zero_apart(folder):
    network = _load("alex", folder)
    prediction, truth = _pictures()
    both = network.compare([prediction, truth], truth)
    assert both[0] == network.compare([prediction], truth)[0]
    assert both[1].value == 0.0


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_smallest_side_has_a_value_and_one_less_has_none(net, folder):
    network, side = _load(net, folder), MIN_SIDE[net]
    prediction, truth = _pictures((side, 64))
    mask = np.ones(truth.shape[:2], bool)
    assert network.compare([prediction], truth)[0].value is not None
    less = network.compare([prediction[1:]], truth[1:], mask[1:])[0]
    assert (less.value, less.masked) == (None, None)


def test_an_empty_mask_has_no_masked_value(folder):
    prediction, truth = _pictures()
    score = _load("alex", folder).compare([prediction], truth, np.zeros(truth.shape[:2], bool))[0]
    assert score.value is not None
    assert score.masked is None


def test_wrong_shapes_are_refused_with_both_shapes(folder):
    with pytest.raises(ValueError, match=r"\(40, 41, 3\).*\(41, 40, 3\)"):
        _load("alex", folder).compare([np.zeros((40, 41, 3))], np.zeros((41, 40, 3)))


def test_the_weights_hash_is_that_of_the_file(folder):
    expected = hashlib.sha256((folder / weights_name("alex")).read_bytes()).hexdigest()
    assert _load("alex", folder).weights_sha256 == expected


def test_a_missing_file_is_a_reason_that_names_it(tmp_path):
    assert str(tmp_path / "vgg16-397923af.pth") in str(load_lpips("vgg", str(tmp_path)))


@pytest.mark.parametrize("content", ["truncated", "other network", "not tensors"])
def test_a_spoiled_file_is_a_reason_not_a_crash(content, folder, tmp_path):
    target: Path = tmp_path / weights_name("alex")
    good = (folder / weights_name("alex")).read_bytes()
    spoiled = {"truncated": good[: len(good) // 2], "not tensors": b"<html>proxy login</html>"}
    if content == "other network":
        torch.save({"features.0.weight": torch.zeros(3)}, target)
    else:
        target.write_bytes(spoiled[content])
    reason = load_lpips("alex", str(tmp_path))
    assert isinstance(reason, str)
    assert str(tmp_path) in reason
    assert "\n" not in reason


def test_a_failing_download_is_a_reason(monkeypatch, tmp_path):
    def fail(*_args, **_options):
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    assert "no route to host" in str(load_lpips("alex", "download"))


def test_a_server_that_never_answers_does_not_hang_the_run(monkeypatch, tmp_path):
    before = socket.getdefaulttimeout()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/alexnet-owt-7be5be79.pth"
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr("eval.lpips.TIMEOUT_S", 0.2)
        monkeypatch.setitem(_URL, "alex", address)
        started = time.monotonic()
        reason = load_lpips("alex", "download")
    assert "timed out" in str(reason)
    assert time.monotonic() - started < 5
    assert socket.getdefaulttimeout() == before


def test_a_file_in_torchs_cache_needs_no_network(folder, monkeypatch, tmp_path):
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / weights_name("alex")).symlink_to(folder / weights_name("alex"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert isinstance(load_lpips("alex", "download"), Lpips)
