"""Everything the rules share: the study, where its files are, and what this machine can carry."""

import hashlib
import json
import os
import sys
from pathlib import Path

from fieldbook.config import read_config
from fieldbook.errors import UserError
from fieldbook.files import read_json
from fieldbook.gpus import visible_devices
from fieldbook.layout import RunFiles, status_path
from fieldbook.locks import free_stale_lock
from fieldbook.machine import usable_cpus, usable_memory_mb
from fieldbook.scenes import check_scenes, make, stage_spec
from fieldbook.slurm import keep_unanswered_jobs
from fieldbook.study import scores_with_lpips
from methods.external.template import Commands, runs_commands
from methods.presets import gives_mesh


def load():
    """The study of this invocation; a mistake in the config ends it with one line."""
    try:
        for path in workflow.configfiles:
            read_config(Path(path))  # Snakemake reads it less strictly
        study = make(config)
        check_scenes(study)
    except UserError as error:
        print(f"fieldbook: {error}", file=sys.stderr)
        sys.exit(2)
    return study


STUDY = load()
ROOT = STUDY.results.root.as_posix()
HERE = STUDY.files.root.as_posix()
SCENES = STUDY.config["scenes"]
LONG_SIDE = STUDY.config["long_side"]
RUNS = {run.files(STUDY.results).root.as_posix(): run for run in STUDY.runs}
DATASETS = {run.dataset(STUDY.results).root.as_posix(): run for run in STUDY.runs}
POSES = {run.poses(STUDY.results).root.as_posix(): run for run in STUDY.runs}
METHODS = STUDY.method_specs()
CPUS = usable_cpus()
TORCH_CPUS = min(STUDY.config["torch_threads"], CPUS)
MAY_USE_GPU = STUDY.config["device"] != "cpu"
# A cluster's GPUs are not in the machine that submits: there, a job asks for one unless the study says device: cpu.
CLUSTER = workflow.global_resources["_nodes"].value is not None or not workflow.is_main_process
GPUS = len(visible_devices()) if MAY_USE_GPU and not CLUSTER else 0
GPU = int(MAY_USE_GPU and (CLUSTER or GPUS > 0))
SCORE_GPU = GPU if scores_with_lpips(STUDY.score_spec()) else 0
ENV = "../envs/fieldbook.yaml"


wildcard_constraints:
    scene="|".join(SCENES),
    mask="[A-Za-z0-9_]+",
    name="|".join(STUDY.config["cones"]) or "none",


def limit_to_machine():
    """Keep local jobs within this machine whatever --cores says; --resources overrides, a cluster has no limit."""
    if workflow.global_resources["_nodes"].value is not None:
        return
    # Snakemake only counts GPUs; fieldbook.gpus says which one a job has.
    for name, value in {"cpus": CPUS, "mem_mb": usable_memory_mb(), "gpu": max(GPUS, 1)}.items():
        if name not in workflow.resource_settings.resources:
            workflow.register_resource(name, value)


limit_to_machine()
keep_unanswered_jobs()


def prepare_jobs():
    """Clear up right before jobs run: --dry-run, --lint, --summary and the like only look, and remove nothing.

    No Snakefile can see what Snakemake was started for, and onstart comes after the look for locks and outputs.
    """
    execute = workflow.execute

    def prepared(**options):
        if options["executor_plugin"].common_settings.dryrun_exec:
            say_if_queued()
        else:
            remove_stale_lock()
            forget_if_queued()
        return execute(**options)

    workflow.execute = prepared


prepare_jobs()


def spec(value):
    """A param as the JSON that the command takes."""
    return json.dumps(value, sort_keys=True)


def scene_spec(stage):
    """Param function: the scene's keys that a stage depends on."""
    return lambda wildcards: spec(stage_spec(SCENES[wildcards.scene], stage))


def source(*keys):
    """Input function: the user's own files that a stage reads, so that editing them runs it again."""

    def files(wildcards):
        node = SCENES[wildcards.scene]
        for key in keys:
            node = node.get(key)  # a source that is made, not the user's, has no path
        path = Path(node).expanduser() if node else None
        if path is None:
            return []
        return sorted(p.as_posix() for p in path.glob("*.png")) if path.is_dir() else [path.as_posix()]

    return files


def scene_status(*stages):
    """Input function: status files of stages of the scene."""
    return lambda wildcards: [STUDY.results.scene(wildcards.scene).status(s).as_posix() for s in stages]


def pose_options(run):
    """The options of `fieldbook poses` for a run's poses."""
    return (
        f"--count {run.count} --policy {run.policy} --mapper {run.mapper} --sfm-mask {run.sfm_mask}"
        f" --sfm-seed {run.sfm_seed} --draw {run.subset_draw}"
    )


def mapper_cpus(scene):
    """CPUs that COLMAP's mapper keeps busy; features, which use all of them, take a small part of the time."""
    threads = SCENES[scene]["sfm"]["threads"]
    return CPUS if threads < 1 else min(threads, CPUS)


def poses_inputs(wildcards):
    """Splits, scene frame, and the SfM mask where there is one."""
    run = POSES[wildcards.poses]
    stages = ["splits", "scene_frame"] + ([f"mask-{run.sfm_mask}"] if run.sfm_mask != "none" else [])
    return [STUDY.results.scene(run.scene).status(s).as_posix() for s in stages]


def dataset_inputs(wildcards):
    """Poses and scaled pictures of a dataset."""
    run = DATASETS[wildcards.dataset]
    scene = STUDY.results.scene(run.scene)
    stages = [f"images-{LONG_SIDE}"] + ([f"scaled-{run.mask}-{LONG_SIDE}"] if run.mask != "none" else [])
    return [run.poses(STUDY.results).status().as_posix(), *(scene.status(s).as_posix() for s in stages)]


def command_files(run, stage):
    """The user's own files that stand in an external method's command, so that editing them runs it again."""
    spec = STUDY.train_spec(run)
    return [p.as_posix() for p in Commands.of(spec).named_files(stage)] if runs_commands(spec) else []


def train_inputs(wildcards):
    """The dataset, the early check of the method, and an external method's scripts."""
    run = RUNS[wildcards.run]
    check = STUDY.files.method(f"{run.method}-{run.variant}")
    status = [run.dataset(STUDY.results).status().as_posix(), status_path(check, "method").as_posix()]
    return status + command_files(run, "train")


def path_folders(scene):
    """Folders of the novel-view paths of a scene."""
    return [STUDY.files.path(scene, name).root.as_posix() for name in STUDY.config["cones"]]


def render_inputs(wildcards):
    """The training, every path, and an external method's scripts."""
    run = RUNS[wildcards.run]
    folders = [Path(folder) for folder in path_folders(run.scene)]
    own = status_path(Path(wildcards.run), "train")
    status = [own.as_posix(), *(status_path(folder, "path").as_posix() for folder in folders)]
    return status + command_files(run, "render")


def all_scores(_wildcards):
    """Status files of every run's scoring."""
    return [RunFiles(Path(folder)).status("score").as_posix() for folder in RUNS]


def geometry_inputs(wildcards):
    """The mesh, the true surface where it is the user's own file, and the masks that both are cut with."""
    run = RUNS[wildcards.run]
    own, mask = STUDY.config["scenes"][run.scene]["surface"] or {}, STUDY.config["geometry"]["mask"]
    files = [RunFiles(Path(wildcards.run)).status("mesh").as_posix()]
    if own.get("path"):
        files.append(Path(own["path"]).expanduser().as_posix())
    if mask != "none":
        files.append(STUDY.results.scene(run.scene).status(f"mask-{mask}").as_posix())
    return files


def all_geometries(_wildcards):
    """Status files of the comparison of every run's mesh, where its method gives one."""
    return [RunFiles(Path(folder)).status("geometry").as_posix() for folder, run in RUNS.items() if gives_mesh(vars(run))]


def remove_stale_lock():
    """Remove that of a Snakemake that died, and mark this one as alive."""
    if free_stale_lock(remove=workflow.is_main_process):
        print("The lock of a Snakemake that died was removed.", file=sys.stderr)


def store_hash():
    """The tracking store as a param: not by its URI, which may hold a password."""
    return hashlib.sha256(os.environ.get("MLFLOW_TRACKING_URI", "").encode()).hexdigest()[:12]


def queued():
    """Why the last sync could not log everything; empty where it did, or was not there."""
    try:
        return read_json(STUDY.files.sync)["reason"] if STUDY.files.sync.exists() else ""
    except (UserError, KeyError, TypeError):
        return f"{STUDY.files.sync} is damaged"


def forget_if_queued():
    """A sync that could not log everything is to be done again, though its output is there."""
    if workflow.is_main_process and queued():
        STUDY.files.sync.unlink()


def say_if_queued():
    """A study does not fail over its tracking, but somebody has to say it."""
    if reason := queued():
        print(f"Tracking: {reason}", file=sys.stderr)
