"""Config to cells to runs: expansion, and one clear line for every mistake."""

import copy
import json
from collections import Counter

import pytest
import yaml

from fieldbook.config import load_schema, read_config, validate
from fieldbook.errors import UserError, nearest
from fieldbook.study import cell_id, make_study, study_record


def resolve(method, preset, overrides):
    return {"preset": preset, "steps": {"smoke": 10, "laptop": 100, "paper": 1000}[preset]} | overrides


@pytest.fixture
def config():
    return {
        "study": "s",
        "scenes": {"card": {"capture": {"kind": "synthetic"}, "masks": {"card": {"kind": "truth"}}}},
        "counts": [2, "50%", "all"],
        "methods": [{"method": "nerfacto"}],
    }


def test_defaults_are_filled_in_and_the_input_is_left_alone(config):
    before = copy.deepcopy(config)
    full = validate(config)
    assert config == before
    assert full["scenes"]["card"]["capture"] == {
        "kind": "synthetic",
        "seed": 0,
        "frames": 60,
        "size": [640, 480],
    }
    assert full["scenes"]["card"]["sfm"]["mapper"] == "incremental"
    assert full["draws"] == {"sfm_seed": [0], "subset_draw": [0]}


def test_whole_numbers_written_as_floats_count_as_integers(config):
    assert len(make_study(config | {"repeats": 2.0}, resolve).runs) == 6


def test_runs_are_the_product_of_the_axes(config):
    config |= {
        "seeds": [0, 1, 2],
        "repeats": 2,
        "masks": ["none", "card"],
        "pose_policies": ["reference", "subset"],
    }
    config["draws"] = {"sfm_seed": [0, 1], "subset_draw": [0, 1]}
    runs = make_study(config, resolve).runs
    # 3 counts x 2 subset draws x (1 reference + 2 subset draws of COLMAP) x 2 masks x 3 seeds x 2 repeats
    assert len(runs) == 3 * 2 * (1 + 2) * 2 * 3 * 2
    cells = Counter(map(cell_id, runs))
    assert set(cells.values()) == {6}


def test_reference_poses_do_not_multiply_with_the_axes_of_colmap(config):
    config |= {"mappers": ["incremental", "global"], "pose_policies": ["reference"]}
    assert len(make_study(config, resolve).runs) == 3


def test_every_run_has_its_own_folder_below_the_study(config):
    study = make_study(config | {"seeds": [0, 1], "masks": ["none", "card"]}, resolve)
    record = study_record(study)
    folders = [run["dir"] for run in record["runs"]]
    assert len(set(folders)) == len(folders) == 12
    assert all(folder.startswith("s/card/n") for folder in folders)
    assert all(run["dir"].startswith(run["dataset_dir"] + "/nerfacto/") for run in record["runs"])
    json.dumps(record)


def test_variant_follows_the_resolved_overrides_only(config):
    def variants(**method):
        config["methods"] = [{"method": "nerfacto"} | method]
        return {run.variant for run in make_study(config, resolve).runs}

    plain = variants()
    assert len(plain) == 1
    assert variants(overrides={"steps": 7}) != plain
    assert variants(overrides={"steps": 100}) == plain  # what the preset says anyway
    assert variants(preset="smoke") != plain


def test_a_count_above_the_pool_is_refused_with_both_numbers(config):
    # 60 frames, every 8th held out from 4 on: 7 test frames, 53 left.
    config["counts"] = [53]
    assert len(make_study(config, resolve).runs) == 1
    with pytest.raises(UserError, match=r"54 is more than the pool of scene 'card': 53"):
        make_study(config | {"counts": [54]}, resolve)


def broken(config, path, value):
    node = config
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return config


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["tourch_threads"], 2, ["unknown key 'tourch_threads'", "did you mean 'torch_threads'"]),
        (["scenes", "card", "sfm"], {"maper": "global"}, ["scenes.card.sfm", "did you mean 'mapper'"]),
        (["scenes", "card", "sfm"], {"mapper": "globl"}, ["scenes.card.sfm.mapper", "did you mean 'global'"]),
        (["scenes", "card", "capture"], {"kind": "vidio"}, ["capture.kind", "did you mean 'video'"]),
        (["scenes", "card", "capture"], {"kind": "video"}, ["'path' is missing"]),
        (["scenes", "card", "capture"], {"kind": "synthetic", "sed": 1}, ["unknown key 'sed'", "'seed'"]),
        (["long_side"], "big", ["long_side", "'big'", "integer"]),
        (["study"], "scenes", ["study", "reserved"]),
        (["masks"], ["crad"], ["no mask 'crad'", "did you mean 'card'"]),
        (["sfm_masks"], ["crad"], ["no mask 'crad'"]),
        (["counts"], [0], ["0"]),
        (["counts"], ["120%"], ["120%"]),
        (["cones"], {"c": {"angle": 95, "distance": 1}}, ["c", "95", "85"]),
        (["cones"], {"c": {"angle": 10}}, ["height", "distance"]),
        (["methods"], [{"method": "nerfacto", "preset": "laptob"}], ["did you mean 'laptop'"]),
        (["seeds"], [0, 0], ["twice"]),
        (["scenes"], {"methods": {"capture": {"kind": "synthetic"}}}, ["scenes", "'methods'", "reserved"]),
        (["cones"], {"test": {"angle": 25, "distance": 1}}, ["cones", "'test'", "reserved"]),
        (["scenes"], {2024: {"capture": {"kind": "synthetic"}}}, ["scenes", "2024", "name"]),
        (["cones"], {25: {"angle": 25, "distance": 1}}, ["cones", "25", "name"]),
        (["scenes", "card", "capture"], {"kind": ["video"]}, ["capture.kind", "['video']"]),
        (["methods"], [{"method": "nerfacto", "overrides": {"a": object()}}], ["plain values"]),
    ],
)
def test_a_mistake_gives_one_line_that_names_it_and_what_is_allowed(config, path, value, words):
    with pytest.raises(UserError) as error:
        make_study(broken(config, path, value), resolve)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_true_masks_need_a_synthetic_capture(config):
    config["scenes"]["card"]["capture"] = {"kind": "video", "path": "x.mp4"}
    with pytest.raises(UserError, match="only a synthetic capture"):
        make_study(config, resolve)


def blender(**keys):
    return {"capture": {"kind": "blender", "path": "lego"}, **keys}


def test_a_blender_capture_has_a_white_background_and_leaves_the_pool_to_its_files(config):
    config |= {"scenes": {"lego": blender(masks={"m": {"kind": "alpha"}})}, "counts": [500], "masks": ["m"]}
    study = make_study(config, resolve)
    assert study.config["scenes"]["lego"]["capture"]["background"] == "white"
    assert len(study.runs) == 1


@pytest.mark.parametrize(
    ("scene", "words"),
    [
        (blender(frames={"count": 20}), ["scenes.lego.frames.count is 20", "only all", "counts", "split.file"]),
        (blender(masks={"m": {"kind": "truth"}}), ["only a synthetic capture"]),
        ({"capture": {"kind": "blender", "path": "l", "background": "wite"}}, ["background", "did you mean 'white'"]),
        ({"capture": {"kind": "images", "path": "l", "background": "white"}}, ["unknown key 'background'"]),
        ({"capture": {"kind": "images", "path": "l"}, "masks": {"m": {"kind": "alpha"}}}, ["only a blender capture"]),
    ],
)
def test_a_key_that_a_capture_cannot_have_is_one_line(config, scene, words):
    with pytest.raises(UserError) as error:
        make_study(config | {"scenes": {"lego": scene}}, resolve)
    assert all(word in str(error.value) for word in [*words])
    assert "\n" not in str(error.value)


def test_nearest_names_the_close_one_only_where_there_is_one():
    assert nearest("nerfact", ["nerfacto", "mipnerf"]).endswith("did you mean 'nerfacto'?")
    assert "did you mean" not in nearest("zzz", ["nerfacto", "mipnerf"])


def test_a_damaged_or_missing_config_file_is_one_line(tmp_path):
    (tmp_path / "bad.yaml").write_text("a: [1,\nb: 2")
    (tmp_path / "list.yaml").write_text("- 1")
    for name, word in (("bad.yaml", "line"), ("list.yaml", "mapping"), ("none.yaml", "cannot read")):
        with pytest.raises(UserError, match=word):
            read_config(tmp_path / name)


def keys_of(node, schema):
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    for key, child in node.get("properties", {}).items():
        yield key, child
        yield from keys_of(child, schema)
    for child in [node.get("items"), node.get("additionalProperties"), *node.get("oneOf", [])]:
        if isinstance(child, dict):
            yield from keys_of(child, schema)


def test_every_key_of_the_schema_is_described_and_stands_in_config_yaml(repository):
    schema, text = load_schema(), (repository / "config.yaml").read_text()
    for key, child in keys_of(schema, schema):
        assert "description" in child, key
        assert f"{key}:" in text, key


@pytest.mark.parametrize(
    "name", ["config.yaml", *(f"examples/{n}.yaml" for n in ("external", "fox", "lego", "surface"))]
)
def test_shipped_configs_are_valid_and_expand(repository, name):
    assert make_study(yaml.safe_load((repository / name).read_text()), resolve).runs
