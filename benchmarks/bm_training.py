"""hash-nerf against nerfstudio's nerfacto on its torch fallback: training rays per second, and PSNR over wall time.

    python benchmarks/bm_training.py --quick
    python benchmarks/bm_training.py --scenes lego --json benchmarks/results/training-lego.json
    python benchmarks/bm_training.py --scenes lego --device cuda --until 30 33 35

The scenes are made by the workflow (``snakemake --until dataset``) and kept under results/. The clock stops while the
test pixels are rendered.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from common import in_turn, median, spread, synchronise, write
from torch_neus import copy_model, on_kernels, on_torch

from data.alpha import background_colour
from fieldbook.files import read_json
from fieldbook.layout import DatasetFiles, RunFiles
from fieldbook.scenes import load_study
from methods.backgrounds import blend
from methods.runner.offline import quiet
from methods.runner.setup import build_config, reproducible, seed_everything
from methods.runner.train import Trainer

STUDIES = Path(__file__).parent / "studies"
BATCH = 4096  # nerfacto's batch
HASH, PEER, SURFACE_LAPTOP = "hash-nerf", "nerfacto", "neus-hash laptop"
CONTESTANTS: dict[str, dict[str, Any]] = {
    "hash-nerf laptop": {"method": HASH, "preset": "laptop"},
    "nerfacto as published": {"method": PEER, "preset": "paper"},
    "nerfacto laptop": {"method": PEER, "preset": "laptop"},
    SURFACE_LAPTOP: {"method": "neus-hash", "preset": "laptop"},
    # The preset's 2e-2 suits a capture with a background; before a white one it stops learning.
    "nerfacto laptop, lr 3e-3": {
        "method": PEER,
        "preset": "laptop",
        "overrides": {f"optimizers.{group}.optimizer.lr": 3e-3 for group in ("fields", "proposal_networks")},
    },
}
SAME_BATCH = {"pipeline.max_rays": BATCH, "pipeline.target_samples": 1 << 30}
SURFACE, PEER_SURFACE, SURFACE_BATCH = "neus-hash", "the same on torch", 1024
SAME_SURFACE_BATCH = {
    "first_rays": SURFACE_BATCH,
    "min_rays": SURFACE_BATCH,
    "max_rays": SURFACE_BATCH,
    "max_stride": 1.0,
}
PIXELS = 8192
CHUNK = 2048


def make_dataset(study: str, cores: int) -> DatasetFiles:
    """Let the workflow make a study's dataset, if it has not yet."""
    config = STUDIES / f"{study}.yaml"
    command = ["snakemake", "--quiet", "all", "--cores", str(cores), "--until", "dataset", "--configfile", str(config)]
    subprocess.run(command, check=True)
    loaded = load_study(config)
    return loaded.runs[0].dataset(loaded.results)


class Contest:
    """A model in training, and the clock that runs only while it trains."""

    def __init__(self, spec: dict[str, Any], dataset: DatasetFiles, folder: Path, device: str = "cpu"):
        run = RunFiles(folder / "bench" / spec["method"] / "run")
        run.root.mkdir(parents=True, exist_ok=True)
        spec = dict(spec)
        change = spec.pop("change", None)
        config = build_config(run, dataset, {"overrides": {}, "device": device, **spec})
        if change is not None:
            change(config)
        seed_everything(0)
        self.trainer = Trainer(config, run)
        self.trainer.build()
        self.steps, self.clock, self.most = 0, 0.0, config.max_num_iterations
        self.device = device
        self.rays, self.truth, self.view = test_pixels(self.trainer, dataset)

    def step(self) -> None:
        """One optimisation step, on the clock."""
        synchronise()
        started = time.perf_counter()
        self.trainer.iteration(self.steps)
        synchronise()
        self.clock += time.perf_counter() - started
        self.steps += 1

    def batch(self) -> int:
        """Rays of the next step."""
        return self.trainer.pipeline.datamanager.get_train_rays_per_batch()

    def psnr(self) -> float:
        """Mean over the test views of the PSNR of their pixels, dB."""
        model = self.trainer.pipeline.eval().model
        with torch.no_grad():
            chunks = [self.rays[i : i + CHUNK].to(self.device) for i in range(0, PIXELS, CHUNK)]
            made = torch.cat([model(chunk)["rgb"].clamp(0, 1).cpu() for chunk in chunks])
        self.trainer.pipeline.train()
        error = ((made - self.truth) ** 2).mean(dim=-1)
        views = torch.stack([error[self.view == k].mean() for k in self.view.unique()])
        return float(-10 * torch.log10(views).mean())


def test_pixels(trainer: Trainer, dataset: DatasetFiles) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """The same random pixels of all test pictures for everyone: rays, colours ``[PIXELS, 3]``, views ``[PIXELS]``."""
    pictures = trainer.pipeline.datamanager.eval_dataset
    draw = torch.Generator().manual_seed(1)
    which = torch.arange(PIXELS) % len(pictures)
    height, width = pictures.get_image_float32(0).shape[:2]
    row = torch.randint(height, (PIXELS,), generator=draw)
    column = torch.randint(width, (PIXELS,), generator=draw)
    coords = torch.stack([row, column], dim=-1) + 0.5
    rays = pictures.cameras.generate_rays(camera_indices=which[:, None], coords=coords)
    values = torch.stack([pictures.get_image_float32(k) for k in range(len(pictures))])[which, row, column]
    behind = background_colour(read_json(dataset.transforms).get("background", "white"))  # used with alpha only
    return rays, blend(values, torch.tensor(behind)), which


@contextmanager
def contests(
    dataset: DatasetFiles, specs: dict[str, dict[str, Any]], device: str = "cpu"
) -> Iterator[dict[str, Contest]]:
    """Contestants by name, built."""
    with tempfile.TemporaryDirectory() as folder, quiet(), reproducible(device):
        root = Path(folder)
        yield {k: Contest(spec, dataset, root / k.replace(" ", "-"), device) for k, spec in specs.items()}


def speed(dataset: DatasetFiles, rounds: int, warm_up_s: float) -> dict[str, Any]:
    """Training rays per second at the same batch of 4096 rays, the two in turn."""
    specs = {
        HASH: {**CONTESTANTS["hash-nerf laptop"], "overrides": SAME_BATCH},
        PEER: CONTESTANTS["nerfacto as published"],
    }
    with contests(dataset, specs) as running:
        ours = running[HASH]
        while ours.steps < 200 and ours.clock < warm_up_s:  # until the occupancy grid knows the scene
            ours.step()
        assert ours.batch() == BATCH
        times = in_turn({name: contest.step for name, contest in running.items()}, rounds)
    rates = {name: BATCH / median(t) for name, t in times.items()}
    ratio = rates[HASH] / rates[PEER]
    print(f"\nTraining rays/s at {BATCH} rays a step (median of {rounds}, largest/smallest time)")
    for name, rate in rates.items():
        print(f"  {name:<24}{rate:>10.0f}   {spread(times[name]):.2f}")
    print(f"  ratio {ratio:.1f}  (must 10, aim 14)")
    return {"rays_per_s": rates, "times_s": times, "ratio": ratio}


def surface_speed(dataset: DatasetFiles, rounds: int, steps: int = 200) -> dict[str, Any]:
    """Training rays per second of neus-hash and of the same model on torch's operations, in turn.

    Both have the same weights and occupancy grid, those of ours after ``steps`` steps.
    """
    rays = {f"pipeline.{key}": value for key, value in SAME_SURFACE_BATCH.items()}
    spec = {"method": SURFACE, "preset": "laptop", "overrides": rays}
    both = {SURFACE: {**spec, "change": on_kernels}, PEER_SURFACE: {**spec, "change": on_torch}}
    with contests(dataset, both) as running:
        ours, peer = running[SURFACE], running[PEER_SURFACE]
        while ours.steps < steps:
            ours.step()
        peer.steps = ours.steps
        apart = copy_model(ours.trainer.pipeline.model, peer.trainer.pipeline.model)
        times = in_turn({name: contest.step for name, contest in running.items()}, rounds)
    rates = {name: SURFACE_BATCH / median(t) for name, t in times.items()}
    ratio = rates[SURFACE] / rates[PEER_SURFACE]
    print(f"\nTraining rays/s of {SURFACE} at {SURFACE_BATCH} rays a step (median of {rounds}, largest/smallest time)")
    for name, rate in rates.items():
        print(f"  {name:<28}{rate:>10.0f}   {spread(times[name]):.2f}")
    print(f"  ratio {ratio:.1f}  (must 4, aim 8); the two models differ by {apart:.1e}")
    return {"rays_per_s": rates, "times_s": times, "ratio": ratio, "difference": apart}


def quality(dataset: DatasetFiles, marks: list[float], names: list[str]) -> dict[str, Any]:
    """Test PSNR of contestants after so many seconds of training."""
    curves: dict[str, list[dict[str, float]]] = {}
    print(f"\nPSNR on {PIXELS} test pixels (dB) over training seconds")
    print("  " + " " * 24 + "".join(f"{m:>7.0f}" for m in marks))
    for name in names:
        with contests(dataset, {name: CONTESTANTS[name]}) as running:
            curves[name] = _curve(running[name], marks)
        end = curves[name][-1]
        values = "".join(f"{point['psnr']:>7.2f}" for point in curves[name])
        print(f"  {name:<24}{values}   {end['steps']:.0f} steps in {end['seconds']:.0f} s")
    return {"psnr": curves}


def time_to(dataset: DatasetFiles, targets: list[float], device: str) -> dict[str, Any]:
    """Training seconds until hash-nerf's test PSNR reaches each target; looked at every 50 steps."""
    spec = {"method": HASH, "preset": "paper" if device == "cuda" else "laptop"}
    reached: dict[str, float] = {}
    with contests(dataset, {HASH: spec}, device) as running:
        contest = running[HASH]
        while contest.steps < contest.most and len(reached) < len(targets):
            for _ in range(50):
                contest.step()
            value = contest.psnr()
            for target in targets:
                if value >= target and reached.setdefault(f"{target:g}", contest.clock) == contest.clock:
                    print(f"  {target:g} dB after {contest.clock:.1f} s, {contest.steps} steps")
    return {"seconds_to": reached, "last_psnr": value, "steps": contest.steps, "seconds": contest.clock, **spec}


def profile(dataset: DatasetFiles, warm_up: int = 300, steps: int = 16) -> None:
    """Where hash-nerf's time goes, by torch op, after some steps on one thread."""
    torch.set_num_threads(1)
    with contests(dataset, {HASH: CONTESTANTS["hash-nerf laptop"]}) as running:
        for _ in range(warm_up):
            running[HASH].step()
        with torch.profiler.profile() as recorded:
            for _ in range(steps):
                running[HASH].step()
    print(recorded.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=40))


def _curve(contest: Contest, marks: list[float]) -> list[dict[str, float]]:
    """Up to the last mark, or to the end of the training."""
    points = []
    for mark in marks:
        if contest.steps == contest.most:
            break
        while contest.clock < mark and contest.steps < contest.most:
            contest.step()
        points.append({"seconds": contest.clock, "steps": contest.steps, "psnr": contest.psnr()})
    return points


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # pyright: ignore[reportAttributeAccessIssue]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small scene and short times, under 2 minutes")
    parser.add_argument("--scenes", nargs="+", default=["lego", "card"], help="names of studies in benchmarks/studies")
    parser.add_argument("--surface", action="store_true", help="neus-hash: against torch, and its PSNR over time")
    parser.add_argument("--profile", action="store_true", help="only print where hash-nerf's time goes")
    parser.add_argument("--until", nargs="+", type=float, metavar="DB", help="only measure the time to these PSNRs")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where --until trains")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    marks = [5.0, 10.0] if args.quick else [30.0 * k for k in range(1, 11)]
    names = [name for name in CONTESTANTS if name != SURFACE_LAPTOP][: 2 if args.quick else None]
    results = {}
    for scene in ["quick"] if args.quick else args.scenes:
        print(f"\n== {scene}")
        dataset = make_dataset(scene, args.threads)
        if args.profile:
            profile(dataset)
        elif args.surface:
            rounds, steps = (3, 40) if args.quick else (7, 200)
            fast = surface_speed(dataset, rounds, steps)
            results[scene] = {**fast, **quality(dataset, marks, [SURFACE_LAPTOP])}
        elif args.until:
            results[scene] = time_to(dataset, args.until, args.device)
        else:
            results[scene] = {**speed(dataset, *((1, 15) if args.quick else (7, 60))), **quality(dataset, marks, names)}
    if results:
        write(args.json, {"scenes": results})


if __name__ == "__main__":
    main()
