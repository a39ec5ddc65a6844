"""Data for who has none: posed pictures of a synthetic object, with its true surface."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

NEXT = {
    "blender": "train on it with `capture: {{kind: blender, path: {folder}}}`; docs/blender.md",
    "neus": "its cameras are in cameras_sphere.npz, as in the DTU scans of NeuS; docs/synthetic.md",
}


def sample(
    folder: Annotated[Positional[Path], arg(help="New folder for the pictures.")],
    form: Annotated[Literal["blender", "neus"], arg(name="format", help="Format of the folder.")] = "blender",
    seed: Annotated[int, arg(help="Of the jug's shape and look, at least 0.")] = 0,
    train: Annotated[int, arg(help="Pictures to train with.")] = 60,
    test: Annotated[int, arg(help="Pictures to test with.")] = 20,
    size: Annotated[int, arg(help="Pixels of each side.")] = 400,
) -> None:
    """Render a synthetic jug from all round: posed pictures in another program's format, and object.ply, its surface.

    Example: fieldbook sample jug --format blender --seed 0
    """
    from data.synthetic.folders import Views, write_sample

    made = write_sample(folder, form, seed, Views(train, test, size))
    print(f"{folder}: {made['train']} pictures to train with, {made['test']} to test with, and object.ply")
    print(NEXT[form].format(folder=folder))
