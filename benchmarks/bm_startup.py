"""Seconds from typing a command to the first training step, ours and nerfstudio's in turn; and the plan of big studies.

    python benchmarks/bm_startup.py --quick
    python benchmarks/bm_startup.py --json benchmarks/results/startup.json

It ends with 1 where a limit is missed.

Both sides train the same method on the same pictures and are stopped as soon as they have built everything: right
before the first step, ours writes ``run.json`` and theirs ``dataparser_transforms.json``. nerfstudio's models load
AlexNet for LPIPS; a file of random weights stands in for the download.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from common import median, spread, write

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[1]
ALEXNET = "alexnet-owt-7be5be79.pth"
MARKERS = {"fieldbook train": "run.json", "ns-train": "dataparser_transforms.json"}
MUST = 0.4
"""Ours over nerfstudio's."""
HELP_S, PLAN_S, RUNS = 0.5, 60.0, 10_000
PATIENCE_S = 200.0


def write_scene(folder: Path) -> Path:
    """A dozen small pictures of nothing, with poses: a dataset that both sides read."""
    import numpy as np
    from PIL import Image

    lens = {"fl_x": 28.0, "fl_y": 28.0, "cx": 16.0, "cy": 12.0, "w": 32, "h": 24}
    frames = []
    (folder / "images").mkdir(parents=True)
    for k in range(12):
        name, turn = f"images/frame_{k:05d}.png", k / 12 * 2 * np.pi
        Image.fromarray(np.full((24, 32, 3), 20 * k, np.uint8)).save(folder / name)
        back = np.array([np.cos(turn), np.sin(turn), 0.0])
        right, up = np.array([-np.sin(turn), np.cos(turn), 0.0]), np.array([0.0, 0.0, 1.0])
        pose = np.eye(4)
        pose[:3] = np.stack([right, up, back, back], axis=1)
        frames.append({"file_path": name, "transform_matrix": pose.tolist(), **lens})
    names = [f["file_path"] for f in frames]
    lists = {"train_filenames": names[2:], "val_filenames": names[:2], "test_filenames": names[:2]}
    scene = {"near": 0.1, "far": 4.0, "poi": [0, 0, 0], "bounds": [[-1] * 3, [1] * 3]}
    (folder / "scene.json").write_text(json.dumps(scene))
    (folder / "transforms.json").write_text(json.dumps({"frames": frames, **lists, "scene_json": "scene.json"}))
    status = {"state": "ok", "stage": "dataset", "reason": "", "numbers": {}, "spec": {}}
    (folder / "dataset.status.json").write_text(json.dumps(status))
    return folder


def random_alexnet(torch_home: Path) -> None:
    """Weights that LPIPS finds where it would download its own."""
    import torch
    from torchvision.models import alexnet

    (torch_home / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(alexnet(weights=None).state_dict(), torch_home / "hub" / "checkpoints" / ALEXNET)


def until_ready(command: list[str], out: Path, marker: str, environment: dict[str, str]) -> float:
    """Seconds until the marker appears under a folder; the process is then stopped."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        while not any(out.rglob(marker)):
            if process.poll() is not None or time.perf_counter() - started > PATIENCE_S:
                process.kill()
                said.seek(0)
                raise SystemExit(f"{' '.join(command)} never began: {said.read()[-2000:]}")
            time.sleep(0.005)
        seconds = time.perf_counter() - started
        process.terminate()
        process.wait()
    return seconds


def readiness(method: str, scene: Path, work: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of both sides, in turn; one untimed round first, so that both find their files in memory."""
    environment = os.environ | {"TORCH_HOME": str(work / "torch"), "CUDA_VISIBLE_DEVICES": ""}
    times: dict[str, list[float]] = {"fieldbook train": [], "ns-train": []}
    for k in range(rounds + 1):
        ours, theirs = scene / method / f"run{k}", work / f"ns-{method}-{k}"
        spec = {"method": method, "preset": "paper", "seed": 0, "device": "cpu"}
        commands = {
            "fieldbook train": ([str(BIN / "fieldbook"), "train", str(ours), "--spec", json.dumps(spec)], ours),
            "ns-train": (
                [str(BIN / "ns-train"), method, "--vis", "tensorboard", "--machine.device-type", "cpu", "--output-dir",
                 str(theirs), "fieldbook-data", "--data", str(scene / "transforms.json")],
                theirs,
            ),
        }  # fmt: skip
        for name, (command, out) in commands.items():
            seconds = until_ready(command, out, MARKERS[name], environment)
            if k > 0:
                times[name].append(seconds)
    return times


def help_seconds(rounds: int) -> list[float]:
    """Seconds of ``fieldbook --help``."""
    times = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        subprocess.run([str(BIN / "fieldbook"), "--help"], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return times[1:]


def plan_seconds(work: Path, runs: int) -> float:
    """Seconds of a dry run of so many runs."""
    study = {
        "study": "big",
        "results": str(work / "results"),
        "scenes": {"card": {"capture": {"kind": "synthetic", "frames": 20, "size": [320, 240]}}},
        "counts": [2, 3, 4, 5, "all"],
        "pose_policies": ["reference", "subset"],
        "methods": [{"method": "nerfacto", "preset": "smoke"}],
        "seeds": list(range(runs // 10)),
        "cones": {"up25": {"angle": 25, "distance": 1, "views": 2}},
    }
    config = work / "big.yaml"
    config.write_text(yaml.safe_dump(study), encoding="utf-8")
    command = [str(BIN / "snakemake"), "--snakefile", str(ROOT / "Snakefile"), "--dry-run", "--quiet", "--cores", "8"]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, "--directory", str(work), "--configfile", str(config)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(done.stderr[-2000:])
    return time.perf_counter() - started


def missed(results: dict[str, Any]) -> list[str]:
    """What is above its limit, in words."""
    numbers = {f"ready to train {method}": (ready["ratio"], MUST) for method, ready in results["ready"].items()}
    numbers["fieldbook --help"] = (median(results["help_s"]), HELP_S)
    numbers |= {f"dry run of {runs} runs": (seconds, PLAN_S) for runs, seconds in results["plan_s"].items()}
    return [f"{what}: {value:.2f}, must {most}" for what, (value, most) in numbers.items() if value > most]


def measure(quick: bool, work: Path) -> dict[str, Any]:
    """All rows, printed and as the JSON has them."""
    rounds, methods = (3, ["nerfacto"]) if quick else (5, ["nerfacto", "hash-nerf"])
    results: dict[str, Any] = {"ready": {}}
    scene = write_scene(work / "scene")
    random_alexnet(work / "torch")
    print(f"{'seconds until the first step':<34}{'fieldbook':>10}{'ns-train':>10}{'ratio':>8}{'must':>7}  spread")
    for method in methods:
        times = readiness(method, scene, work, rounds)
        ours, theirs = median(times["fieldbook train"]), median(times["ns-train"])
        widest = max(map(spread, times.values()))
        print(f"{method:<34}{ours:>10.2f}{theirs:>10.2f}{ours / theirs:>8.2f}{MUST:>7}  {widest:.2f}")
        results["ready"][method] = {"times_s": times, "ratio": ours / theirs}
    results["help_s"] = help_seconds(5)
    print(f"{'fieldbook --help':<34}{median(results['help_s']):>10.2f}{'':>18}{HELP_S:>7}")
    results["plan_s"] = {str(RUNS): plan_seconds(work, RUNS)}
    print(f"{f'dry run of {RUNS} runs':<34}{results['plan_s'][str(RUNS)]:>10.2f}{'':>18}{PLAN_S:>7}")
    return results


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # pyright: ignore[reportAttributeAccessIssue]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one method, three rounds, under 2 minutes")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(args.quick, Path(folder))
    write(args.json, results)
    if failed := missed(results):
        raise SystemExit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
