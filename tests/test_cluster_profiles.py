"""What the cluster profiles ask for, and Kubernetes' commands against a kubectl that runs jobs on this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from fieldbook import kubernetes
from fieldbook.errors import UserError

BIN = Path(sys.executable).parent
PROFILES = Path(__file__).parent.parent / "profiles"
NAMES = ("slurm", "kubernetes")


def _snakemake(folder: Path, *arguments: str, **changes) -> subprocess.CompletedProcess[str]:
    study = {
        "study": "tiny",
        "scenes": {
            "card": {
                "capture": {"kind": "synthetic", "frames": 20, "size": [160, 120]},
                "masks": {"card": {"kind": "truth"}},
            }
        },
        "counts": [6, "all"],
        "pose_policies": ["reference", "subset"],
        "masks": ["none", "card"],
        "methods": [{"method": "nerfacto", "preset": "smoke"}, {"method": "mipnerf", "preset": "smoke"}],
        "seeds": [0, 1],
        "metrics": ["psnr"],
    } | changes
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    # As from a checkout: the profiles are named by a path from there.
    for name in ("Snakefile", "workflow", "profiles"):
        if not (folder / name).exists():
            (folder / name).symlink_to(PROFILES.parent / name)
    environment = os.environ | {"PATH": f"{folder / 'bin'}{os.pathsep}{BIN}{os.pathsep}{os.environ['PATH']}"}
    command = [str(BIN / "snakemake"), "--configfile", "study.yaml", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """What a dry run with a profile, and changes of the study, says; each is done once."""
    plans: dict[str, str] = {}

    def say(profile: str, *options: str, **changes) -> str:
        key = f"{profile} {options} {changes}"
        if key not in plans:
            folder = tmp_path_factory.mktemp("plan")
            done = _snakemake(folder, "--profile", f"profiles/{profile}", "--dry-run", *options, **changes)
            assert done.returncode == 0, done.stderr
            plans[key] = done.stdout + done.stderr
        return plans[key]

    return say


def _resources(said: str, rule: str) -> list[dict[str, str]]:
    """Of every job of a rule."""
    blocks = re.findall(rf"rule {rule}:\n(.*?resources: [^\n]*)", said, re.DOTALL)
    lines = (block.rsplit("resources: ", 1)[1] for block in blocks)
    return [dict(item.split("=", 1) for item in line.split(", ")) for line in lines]


@pytest.mark.parametrize("profile", NAMES)
def test_a_training_asks_for_one_gpu_and_a_day_whatever_the_submitting_machine_has(profile, plan):
    said = plan(profile)
    for rule, minutes in (("train", "1440"), ("render", "120")):
        asked = _resources(said, rule)
        assert len(asked) == 32
        assert {(r["gpu"], r["runtime"]) for r in asked} == {("1", minutes)}
    for rule in ("score", "poses", "tables"):
        assert {r.get("gpu", "0") for r in _resources(said, rule)} == {"0"}


def test_scoring_asks_for_a_gpu_where_it_has_lpips_to_compute(plan):
    said = plan("slurm", metrics=["psnr", "lpips_alex"], weights="download")
    assert {r["gpu"] for r in _resources(said, "score")} == {"1"}


def test_a_study_for_the_cpu_asks_for_no_gpu(plan):
    said = plan("slurm", device="cpu")
    assert {r["gpu"] for rule in ("train", "render") for r in _resources(said, rule)} == {"0"}


@pytest.mark.parametrize("options", [(), ("--set-resources", "train:runtime=2880")], ids=str)
def test_slurm_is_asked_to_signal_a_training_before_its_time_limit_also_a_longer_one(plan, options: tuple[str, ...]):
    said = plan("slurm", *options)
    assert {r["slurm_extra"].split()[0] for r in _resources(said, "train")} == {"--signal=TERM@120"}


@pytest.mark.parametrize("profile", NAMES)
def test_short_steps_share_jobs_and_trainings_do_not(profile, plan):
    said = plan(profile)
    stats = dict(re.findall(r"^(\w+)\s+(\d+)$", said.split("Job stats:")[1].split("total")[0], re.MULTILINE))
    assert stats["train"] == stats["render"] == stats["score"] == "32"
    groups = re.findall(r"Group job (\w+) ", said)
    # One job for a run's pictures and scores; one for each pose with its two datasets; one for all methods' checks.
    counts = {name: groups.count(name) for name in set(groups)}
    assert counts == {"views": 32, "poses": 4, "methods": 1, "scene": 3, "report": 1}
    alone = re.findall(r"^rule (\w+):", said, re.MULTILINE)
    assert {rule: alone.count(rule) for rule in set(alone) - {"all"}} == {
        "capture": 1, "frames": 1, "reference": 1, "train": 32, "sync": 1,
    }  # fmt: skip


def test_the_two_profiles_plan_the_same():
    profiles = {
        name: yaml.safe_load((PROFILES / name / "profile.yaml").read_text()) for name in ("slurm", "kubernetes")
    }
    for key in ("groups", "group-components", "set-threads", "default-resources", "retries"):
        assert profiles["slurm"][key] == profiles["kubernetes"][key]


@pytest.mark.parametrize("profile", NAMES)
def test_a_key_that_is_no_option_of_snakemake_would_be_refused(profile, tmp_path):
    """So that every dry run of a profile is a check of its keys."""
    text = (PROFILES / profile / "profile.yaml").read_text()
    (tmp_path / "profile.yaml").write_text(f"{text}\nno-such-option: 1\n")
    done = _snakemake(tmp_path, "--profile", str(tmp_path), "--dry-run")
    assert done.returncode != 0
    assert "unrecognized arguments: --no-such-option=1" in done.stderr


@pytest.mark.parametrize("profile", NAMES)
def test_a_profile_names_rules_that_there_are(profile):
    """Snakemake does not miss others."""
    rules = {r for path in PROFILES.parent.glob("workflow/rules/*.smk") for r in RULE.findall(path.read_text())}
    given = yaml.safe_load((PROFILES / profile / "profile.yaml").read_text())
    for key in ("set-threads", "set-resources", "groups"):
        assert set(given[key]) <= rules, key
    assert set(given["group-components"]) <= set(given["groups"].values())


RULE = re.compile(r"^rule (\w+):", re.MULTILINE)
PROPERTIES = {"threads": 2, "resources": {"mem_mb": 6000, "runtime": 90, "gpu": 1}}


def test_a_pod_asks_for_what_the_job_needs_and_has_time_to_save(tmp_path):
    made = kubernetes.manifest(kubernetes.Pod("python:3.11", "claim", "/data"), "name", PROPERTIES, "/data/job.sh")
    pod = made["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    needs = {"cpu": "2", "memory": "6000M", "nvidia.com/gpu": "1"}
    assert container["resources"] == {"requests": needs, "limits": needs}
    assert made["spec"]["activeDeadlineSeconds"] == 90 * 60
    assert pod["terminationGracePeriodSeconds"] >= 60
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "claim"
    assert container["volumeMounts"] == [{"name": pod["volumes"][0]["name"], "mountPath": "/data"}]


def test_kubectl_finds_every_field_of_a_job_in_kubernetes_own_types(tmp_path):
    """What is misspelt it would leave out, what is of another type it would refuse; no cluster is asked."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    properties = {"threads": 2, "resources": {"mem_mb": 6001, "runtime": 90, "gpu": 1}}  # 6000M would come back as 6G
    old, new = (
        kubernetes.manifest(kubernetes.Pod(image, "claim", "/data"), "name", properties, "/data/job.sh")
        for image in ("python:3.11", "python:3.12")
    )
    (tmp_path / "job.json").write_text(json.dumps(old))
    change = ("set", "image", "--local", "-f", str(tmp_path / "job.json"), "snakemake=python:3.12", "-o", "json")
    done = subprocess.run(["kubectl", *change], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    _assert_holds(json.loads(done.stdout), new)


def _assert_holds(whole: Any, part: Any) -> None:
    """Whether one JSON value has everything that another has."""
    if isinstance(part, dict):
        for key, value in part.items():
            assert key in whole
            _assert_holds(whole[key], value)
    elif isinstance(part, list):
        for one, other in zip(whole, part, strict=True):
            _assert_holds(one, other)
    else:
        assert whole == part


@pytest.mark.parametrize("gpu", [0, None])
def test_a_pod_of_a_cpu_job_asks_for_no_gpu(gpu):
    properties = PROPERTIES | {"resources": PROPERTIES["resources"] | {"gpu": gpu}}
    made = kubernetes.manifest(kubernetes.Pod("image", "claim", "/data"), "name", properties, "/data/job.sh")
    assert set(made["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]) == {"cpu", "memory"}


@pytest.mark.parametrize("volume", ["claim", ":/data", "claim:data", ""])
def test_a_volume_that_is_none_is_refused(volume, tmp_path):
    with pytest.raises(UserError, match="CLAIM:/PATH"):
        kubernetes.submit(tmp_path / "job.sh", "image", volume)


def test_a_job_that_the_pods_could_not_see_is_refused(tmp_path):
    with pytest.raises(UserError, match="not below /data"):
        kubernetes.submit(tmp_path / "job.sh", "image", "claim:/data")


@pytest.mark.parametrize(
    ("answer", "code", "state"),
    [
        ("1/", 0, "success"),
        ("/1", 0, "failed"),
        ("/", 0, "running"),
        ("Error from server (NotFound)", 1, "failed"),
        ("connection refused", 1, "running"),
    ],
)
def test_a_jobs_state_is_kubernetes_state(answer, code, state, tmp_path, monkeypatch, capsys):
    _tool(tmp_path, f"echo '{answer}' >&{1 if code == 0 else 2}; exit {code}")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    kubernetes.status("fieldbook-1")
    assert capsys.readouterr().out.strip() == state


def _tool(folder: Path, script: str) -> None:
    path = folder / "bin/kubectl"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


KUBECTL = """
import json, subprocess, sys
from pathlib import Path
jobs = Path(__file__).parent.parent / "jobs"
jobs.mkdir(exist_ok=True)
if sys.argv[1] == "create":
    made = json.load(sys.stdin)
    path = jobs / made["metadata"]["name"]
    path.write_text(json.dumps(made))
    (container,) = made["spec"]["template"]["spec"]["containers"]
    run = f'cd "$1"; shift; "$@" > {path}.log 2>&1; echo $? > {path}.code'
    command = ["sh", "-c", run, "pod", container["workingDir"], *container["command"]]
    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
else:
    code = jobs / f"{sys.argv[3]}.code"
    print("/" if not code.is_file() else "1/" if code.read_text().strip() == "0" else "/1", end="")
"""


@pytest.mark.slow
def test_jobs_run_on_a_kubectl_that_runs_them_here(tmp_path):
    (tmp_path / "kubectl.py").write_text(KUBECTL)
    _tool(tmp_path, f'exec {sys.executable} {tmp_path}/bin/kubectl.py "$@"')
    (tmp_path / "kubectl.py").rename(tmp_path / "bin/kubectl.py")
    submit = f"python -m fieldbook.kubernetes submit --image none --volume claim:{tmp_path}"
    faster = ("--latency-wait", "5", "--seconds-between-status-checks", "2")
    done = _snakemake(
        tmp_path,
        *("--profile", "profiles/kubernetes", "--cluster-generic-submit-cmd", submit, *faster),
        *("--until", "frames", "method"),
        device="cpu",
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert len(list(tmp_path.glob("results/tiny/methods/*/method.status.json"))) == 2
    assert (tmp_path / "results/scenes/card/frames.status.json").is_file()
    jobs = [json.loads(path.read_text()) for path in (tmp_path / "jobs").iterdir() if not path.suffix]
    limits = [job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] for job in jobs]
    # Capture, frames, and the group of the two checks, which run at a time.
    assert sorted((limit["cpu"], limit["memory"]) for limit in limits) == [
        ("2", "4000M"),
        ("4", "2000M"),
        ("4", "2500M"),
    ]
    assert not any("nvidia.com/gpu" in limit for limit in limits)


def test_sigterm_reaches_every_process_of_a_pod(tmp_path):
    command = ["unshare", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("process namespaces are not permitted")
    (tmp_path / "job.sh").write_text(f"bash {tmp_path}/train.sh > {tmp_path}/log\nexit $?\n")
    (tmp_path / "train.sh").write_text("trap 'echo saved; exit 143' TERM; echo begun; sleep 60 & wait\n")
    pod = subprocess.Popen([*command, "bash", "-c", kubernetes.RUN, str(tmp_path / "job.sh")])
    log = tmp_path / "log"
    while not (log.is_file() and log.read_text()):
        assert pod.poll() is None
        time.sleep(0.05)
    inside = Path(f"/proc/{pod.pid}/task/{pod.pid}/children").read_text()
    os.kill(int(inside), signal.SIGTERM)
    assert pod.wait(timeout=20) != 0
    assert log.read_text() == "begun\nsaved\n"
