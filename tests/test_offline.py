"""Without a network: a study from its capture to its report, and `make setup` from a folder of wheels."""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import torchvision
import yaml

from eval.lpips import weights_name
from fieldbook.status import read_status

BIN = Path(sys.executable).parent
CUT = ["unshare", "--map-root-user", "--net"]
TRY_OUT = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)"  # an address nobody has


@pytest.fixture(scope="module")
def wheelhouse(repository_root=Path(__file__).parent.parent):
    """The module behind `make wheelhouse`, which stands in no package."""
    path = repository_root / "workflow/envs/make_wheelhouse.py"
    spec = importlib.util.spec_from_file_location("make_wheelhouse", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


LOCK = """\
a==1
    # via -r requirements.in
b==2.0
    # via
    #   a
    #   torch
cuda-thing==3
    # via torch
numpy==4
    # via
    #   -r requirements.in
    #   torch
thing-of-thing==5
    # via
    #   cuda-thing
    #   torchvision
torch==6
    # via
    #   -r requirements.in
    #   a
torchvision==7
    # via -r requirements.in
"""


def test_the_minimal_wheelhouse_lacks_torch_and_what_only_torch_brings(wheelhouse):
    pins = wheelhouse.read_lock(LOCK)
    assert [pin.line for pin in pins.values()] == [line for line in LOCK.splitlines() if line[0] != " "]
    assert list(wheelhouse.without(pins, wheelhouse.THERE)) == ["a", "b", "numpy"]


def test_the_minimal_wheelhouse_of_our_lock_lacks_cuda_and_has_nerfstudio(wheelhouse):
    pins = wheelhouse.read_lock(wheelhouse.LOCK.read_text())
    kept = wheelhouse.without(pins, wheelhouse.THERE)
    assert {"torch", "torchvision", "triton", "nvidia-cublas"} <= set(pins) - set(kept)
    assert {"nerfstudio", "numpy", "uv", "setuptools", "snakemake", "torchmetrics", "pycolmap"} <= set(kept)
    assert not [name for name in kept if name.startswith(("nvidia", "cuda"))]


@pytest.fixture
def index(wheelhouse, monkeypatch, tmp_path):
    """A pip that finds a wheel of everything but b and numpy, of which there are sources alone."""
    calls: list[tuple[str, ...]] = []

    def pip(*arguments: str) -> None:
        calls.append(arguments)
        if arguments[0] == "download":
            for line in (tmp_path / "requirements.txt").read_text().split():
                name, version = line.split("==")
                end = ".tar.gz" if name in ("b", "numpy") else "-py3-none-any.whl"
                (tmp_path / f"{name.replace('-', '_')}-{version}{end}").write_text("")
        else:
            tag = {"b": "py3-none-any", "numpy": "cp311-cp311-linux_x86_64"}[Path(arguments[-1]).name.split("-")[0]]
            (tmp_path / f"{Path(arguments[-1]).name.removesuffix('.tar.gz')}-{tag}.whl").write_text("")

    monkeypatch.setattr(wheelhouse, "pip", pip)
    return calls


def test_sources_are_built_and_all_is_listed(wheelhouse, index, tmp_path):
    pins = wheelhouse.without(wheelhouse.read_lock(LOCK), wheelhouse.THERE)
    assert wheelhouse.fetch(tmp_path, pins, None) == []
    names = {"a-1-py3-none-any.whl", "b-2.0-py3-none-any.whl", "numpy-4-cp311-cp311-linux_x86_64.whl"}
    assert {p.name for p in tmp_path.iterdir()} == names | {"requirements.txt"}
    assert (tmp_path / "requirements.txt").read_text() == "a==1\nb==2.0\nnumpy==4\n"
    assert "--python-version" not in index[0]


def test_for_another_python_what_has_to_be_compiled_is_left_out_and_named(wheelhouse, index, tmp_path):
    pins = wheelhouse.without(wheelhouse.read_lock(LOCK), wheelhouse.THERE)
    assert wheelhouse.fetch(tmp_path, pins, "3.12") == ["numpy"]
    assert (tmp_path / "requirements.txt").read_text() == "a==1\nb==2.0\n"
    assert not list(tmp_path.glob("numpy*"))
    assert index[0][-4:] == ("--python-version", "3.12", "--implementation", "cp")


def test_wheels_of_another_lock_do_not_stay(wheelhouse, tmp_path):
    pins = wheelhouse.read_lock("a==1\nthing-of.Thing==5\n")
    keep = ["a-1-py3-none-any.whl", "thing_of_Thing-5-cp311-abi3-linux_x86_64.whl"]
    for name in (*keep, "a-1.5-py3-none-any.whl", "ab-1-py3-none-any.whl", "thing_of_Thing-51-py3-none-any.whl"):
        (tmp_path / name).write_text("")
    wheelhouse.remove_others(tmp_path, pins)
    assert sorted(p.name for p in tmp_path.iterdir()) == keep


def _cut_off(*command: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CUT, *command], capture_output=True, text=True, check=False, **options)


@pytest.fixture
def no_network() -> None:
    """Skips where a namespace without a network cannot be had; else shows that it has none."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    done = _cut_off("true")
    if done.returncode:
        pytest.skip(f"network namespaces are not permitted: {done.stderr.strip()}")
    tried = _cut_off(sys.executable, "-c", TRY_OUT)
    assert "Network is unreachable" in tried.stderr


def _repack(name: str, folder: Path) -> None:
    """Make a wheel of an installed package."""
    found = importlib.metadata.distribution(name)
    tag = (found.read_text("WHEEL") or "").split("Tag: ")[1].split()[0]
    stem = f"{found.metadata['Name'].replace('-', '_')}-{found.version}"
    record = []
    with zipfile.ZipFile(folder / f"{stem}-{tag}.whl", "w") as wheel:
        for file in found.files or []:
            inside = f"{stem}.data/scripts/{file.name}" if ".." in file.parts else str(file)
            if "__pycache__" in file.parts or file.name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json"):
                continue
            wheel.write(str(file.locate()), inside)
            record.append(f"{inside},,\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", "".join(record) + f"{stem}.dist-info/RECORD,,\n")


@pytest.mark.slow
def test_make_setup_installs_from_a_wheelhouse_with_the_network_cut(no_network, repository: Path, tmp_path: Path):
    """Of a checkout with two packages in its lock, the installer and the builder: as much as a test can carry."""
    checkout, wheels = tmp_path / "checkout", tmp_path / "wheels"
    (checkout / "fieldbook").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "fieldbook/__init__.py"):
        shutil.copyfile(repository / name, checkout / name)
    wheels.mkdir()
    pins = ""
    for name in ("uv", "setuptools"):
        _repack(name, wheels)
        pins += f"{name}=={importlib.metadata.version(name)}\n"
    (checkout / "requirements.lock").write_text(pins)
    (wheels / "requirements.txt").write_text(pins)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_", "VIRTUAL_ENV", "PYTHON"))}
    environment |= {"UV_CACHE_DIR": str(tmp_path / "cache"), "PIP_NO_CACHE_DIR": "1", "HOME": str(tmp_path)}
    setup = ["make", "-C", str(checkout), "setup", f"WHEELHOUSE={wheels}", f"PYTHON={sys.executable}"]
    done = _cut_off(*setup, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (checkout / ".venv/bin/fieldbook").is_file()
    python = checkout / ".venv/bin/python"
    where = subprocess.run(
        [python, "-c", "import fieldbook; print(fieldbook.__file__)"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert where.stdout.strip() == str(checkout / "fieldbook/__init__.py")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """LPIPS's AlexNet as a folder has it that was copied here, but with random numbers."""
    torch.manual_seed(0)
    folder = tmp_path / "weights"
    folder.mkdir()
    torch.save(torchvision.models.alexnet().state_dict(), folder / weights_name("alex"))
    return folder


@pytest.mark.slow
def test_a_study_runs_with_the_network_cut_lpips_included(no_network, repository: Path, tmp_path: Path, weights: Path):
    study = {
        "study": "tiny",
        "scenes": {
            "card": {
                "capture": {"kind": "synthetic", "frames": 20, "size": [320, 240]},
                "sfm": {"max_features": 2048},
            }
        },
        "counts": ["all"],
        "methods": [{"method": "nerfacto", "preset": "smoke"}, {"method": "hash-nerf", "preset": "smoke"}],
        "metrics": ["psnr", "lpips_alex"],
        "weights": str(weights),
        "long_side": 64,
        "torch_threads": 1,
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    # A home without caches: nothing that an earlier run fetched is used.
    environment = os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path / "home"),
        "XDG_CACHE_HOME": str(tmp_path / "home/cache"),
        "TORCH_HOME": str(tmp_path / "home/torch"),
    }
    command = [str(BIN / "snakemake"), "--snakefile", str(repository / "Snakefile"), "--cores", "8"]
    done = _cut_off(*command, "--configfile", "study.yaml", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    with open(tmp_path / "results/tiny/images.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["method"] for row in rows} == {"nerfacto", "hash-nerf"}
    assert all(float(row["lpips_alex_float"]) > 0 for row in rows)
    page = (tmp_path / "results/tiny/report.html").read_text(encoding="utf-8")
    assert "nerfacto" in page

    # What would have to be fetched is said to be missing, and stops nothing.
    run = next(tmp_path.glob("results/tiny/card/*/*/*/nerfacto/*"))
    spec = json.dumps({"metrics": ["psnr", "lpips_alex"], "weights": "download"})
    done = _cut_off(str(BIN / "fieldbook"), "score", str(run), "--spec", spec, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    numbers = read_status(run / "score.status.json").numbers
    assert "cannot be had" in numbers["lpips"]
    assert float(numbers["psnr_float"]) > 0
