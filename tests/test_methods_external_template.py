"""External methods in a study's plan: resolved to commands, and one line for every mistake."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fieldbook.config import read_config
from fieldbook.errors import UserError
from fieldbook.scenes import check_scenes, make
from fieldbook.study import Run, Study, cell_id, study_record
from methods.external.template import PLACEHOLDERS, Commands

TRAIN = "python train.py --data {dataset} --out {model} --seed {seed}"
RENDER = "python render.py {model} --cameras {cameras} --out={output}"
MINE = {"method": "my-splats", "kind": "external", "train": TRAIN, "render": RENDER}


def study(*methods: dict[str, Any], **keys: Any) -> Study:
    scenes = {"card": {"capture": {"kind": "synthetic"}}}
    return make(
        {"study": "s", "results": "no-results-here", "scenes": scenes, "counts": [2], "methods": list(methods), **keys}
    )


def the_run(**entry: Any) -> Run:
    return study({**MINE, **entry}).runs[0]


def commands(run: Run) -> Commands:
    return Commands.of({"method": run.method, "resolved": run.resolved})


def test_an_external_method_has_every_axis_of_the_others():
    made = study(
        MINE,
        {"method": "hash-nerf"},
        counts=[2, 4],
        pose_policies=["reference", "subset"],
        seeds=[0, 1, 2],
        repeats=2,
    )
    mine = [run for run in made.runs if run.method == "my-splats"]
    assert len(mine) == len(made.runs) / 2 == 2 * 2 * 3 * 2
    assert len(set(map(cell_id, mine))) == 4
    folders = [run["dir"] for run in study_record(made)["runs"]]
    assert len(set(folders)) == len(folders)
    assert {run.preset for run in mine} == {"external"}
    json.dumps(made.train_spec(mine[0]))


def test_words_are_split_before_placeholders_are_filled_in():
    values = {"model": "/a b/it's", "cameras": "c.json", "output": "o;rm", "dataset": "d", "seed": 7}
    made = commands(the_run(render="sh -c 'x {{}} {model}' {model} {cameras} --out={output}"))
    assert made.words("render", values) == ["sh", "-c", "x {} /a b/it's", "/a b/it's", "c.json", "--out=o;rm"]
    assert made.words("train", values)[-2:] == ["--seed", "7"]


def test_overrides_are_placeholders_of_the_users_own_and_make_another_variant():
    train = f"{TRAIN} --steps {{steps}} --white {{white}}"
    one, two = (the_run(train=train, overrides={"steps": n, "white": True}) for n in (100, 200))
    assert one.variant != two.variant
    values = {"dataset": "d", "model": "m", "seed": 0}
    assert commands(two).words("train", values)[-4:] == ["--steps", "200", "--white", "true"]


def test_the_variant_follows_the_commands_and_the_label_names_it():
    assert the_run().variant == the_run().variant
    assert the_run(train=TRAIN + " ").variant != the_run().variant
    assert the_run().variant.startswith("external-")
    assert the_run(label="v2").variant.startswith("v2-")


def test_the_plan_of_a_study_made_from_its_own_record_is_the_same():
    made = study(MINE, {"method": "nerfbaselines:nerf", "overrides": {"a": 1}}, {"method": "hash-nerf"})
    assert make(made.config).runs == made.runs


def test_a_run_of_another_method_is_specified_as_before():
    spec = study({"method": "hash-nerf"}).train_spec(study({"method": "hash-nerf"}).runs[0])
    assert spec["preset"] == "laptop"
    assert not {"kind", "train", "render", "cwd", "needs"} & {*spec, *spec["resolved"]}


def test_a_method_without_training_gets_the_dataset_when_it_renders():
    only = {"method": "copy", "kind": "external", "render": "copy {dataset} {trajectory} {output}"}
    assert list(commands(study(only).runs[0]).templates) == ["render"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": "python train.py {datset} {model}"}, ["train", "{datset}", "did you mean 'dataset'"]),
        ({"train": "python train.py {dataset} {model} {cameras}"}, ["train", "{cameras}", "allowed: dataset"]),
        ({"train": "python train.py {dataset} {model} {seed:03d}"}, ["{seed:03d}", "did you mean 'seed'"]),
        ({"train": "python train.py {dataset} {model} {}"}, ["train", "{}"]),
        ({"train": "python train.py {dataset}"}, ["train lacks", "{model}"]),
        ({"train": "python train.py {model}"}, ["train lacks", "{dataset}"]),
        ({"train": "python 'train.py {dataset} {model}"}, ["train", "quotation"]),
        ({"train": "python train.py {dataset {model}"}, ["train", "cannot be read as a command"]),
        ({"train": " "}, ["train is empty"]),
        ({"train": ["python"]}, ["methods.0.train", "string"]),
        ({"render": ""}, ["render is empty"]),
        ({"render": "r {model} {output}"}, ["render lacks", "{cameras}"]),
        ({"render": "r {model} {cameras}"}, ["render lacks", "{output}"]),
        ({"render": "r {cameras} {output}"}, ["render lacks", "{model}"]),
        ({"overrides": {"steps": 1}}, ["overrides", "'steps'", "no command"]),
        ({"overrides": {"seed": 1}}, ["overrides", "{seed}", "another name"]),
        ({"overrides": {"a b": 1}}, ["overrides", "'a b'"]),
        ({"overrides": {"steps": [1]}}, ["overrides", "'steps'", "list"]),
        ({"preset": "smoke"}, ["'my-splats'", "no presets", "label"]),
        ({"kind": "externel"}, ["methods.0.kind", "did you mean 'external'"]),
        ({"kind": "nerfstudio"}, ["'train'", "kind: external"]),
        ({"needs": ["gpus"]}, ["needs", "did you mean 'gpu'"]),
        ({"rendr": "x"}, ["unknown key 'rendr'", "did you mean 'render'"]),
        ({"method": "my/splats"}, ["'my/splats'", "folder"]),
        ({"method": "nerf:x"}, ["'nerf:x'", "nerfbaselines:<id>"]),
        ({"method": "nerfacto"}, ["'nerfacto'", "another name"]),
        ({"method": "nerfbaselines:nerf"}, ["'nerfbaselines:nerf'", "its own commands", "'train'"]),
    ],
)
def test_a_mistake_gives_one_line_that_names_it_and_what_is_allowed(change, words):
    with pytest.raises(UserError) as error:
        study({**MINE, **change})
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_a_command_that_is_not_there_is_one_line():
    with pytest.raises(UserError, match="'render' is missing"):
        study({key: MINE[key] for key in ("method", "kind", "train")})
    with pytest.raises(UserError, match=r"render lacks the placeholder \{dataset\}"):
        study({"method": "x", "kind": "external", "render": "x {cameras} {output}"})


def test_keys_of_an_external_method_are_refused_for_others():
    for key, value in (("render", "x"), ("cwd", "."), ("needs", ["gpu"])):
        with pytest.raises(UserError, match=f"'{key}' is a key of an external method"):
            study({"method": "hash-nerf", key: value})


def test_scripts_and_the_working_folder_have_to_be_there_before_anything_runs(tmp_path: Path):
    made = study({**MINE, "cwd": str(tmp_path / "away")})
    with pytest.raises(UserError, match=r"cwd: there is no folder .*away"):
        check_scenes(made)
    made = study({**MINE, "cwd": str(tmp_path)})
    with pytest.raises(UserError, match=r"train: there is no .*train\.py"):
        check_scenes(made)
    (tmp_path / "train.py").touch()
    with pytest.raises(UserError, match=r"render: there is no .*render\.py"):
        check_scenes(made)
    (tmp_path / "render.py").touch()
    check_scenes(made)


def test_files_that_stand_in_a_command_are_known_the_program_on_path_is_not(tmp_path: Path):
    for name in ("train.py", "fast.json", "python", "run"):
        (tmp_path / name).touch()
    made = commands(the_run(cwd=str(tmp_path), train=f"{TRAIN} --config=fast.json --more none.json"))
    assert made.named_files("train") == [tmp_path / "train.py", tmp_path / "fast.json"]
    made = commands(the_run(cwd=str(tmp_path), train="./run {dataset} {model}"))
    assert made.named_files("train") == [tmp_path / "run"]


def test_the_documents_example_is_the_script_that_is_shipped(repository: Path):
    page = (repository / "docs" / "external.md").read_text()
    assert f"```python\n{(repository / 'examples' / 'nearest_view.py').read_text()}```" in page


def test_the_document_lists_every_placeholder(repository: Path):
    page = (repository / "docs" / "external.md").read_text()
    assert set(re.findall(r"^\| `\{(\w+)\}`", page, re.MULTILINE)) == set(PLACEHOLDERS["render"])


def test_the_shipped_study_plans_its_method_and_finds_its_script(repository: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(repository)
    made = make(read_config(repository / "examples" / "external.yaml"))
    mine = next(run for run in made.runs if run.preset == "external")
    assert commands(mine).named_files("train") == [Path("examples/nearest_view.py")]
