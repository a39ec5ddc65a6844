"""The simplest method there is: every view is the picture of the training camera that stood nearest."""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

parser = argparse.ArgumentParser()
for name in ("dataset", "model", "cameras", "output"):
    parser.add_argument(f"--{name}", type=Path)
given = parser.parse_args()

if given.cameras is None:  # train
    frames = json.loads((given.dataset / "transforms.json").read_text())["frames"]
    centres = np.array([np.array(f["transform_matrix"])[:3, 3] for f in frames])
    pictures = np.array([np.asarray(Image.open(given.dataset / f["file_path"])) for f in frames])
    np.savez(given.model / "model.npz", centres=centres, pictures=pictures)
else:  # render
    model = np.load(given.model / "model.npz")
    for view in json.loads(given.cameras.read_text())["camera_path"]:
        centre = np.array(view["camera_to_world"]).reshape(4, 4)[:3, 3]
        nearest = np.linalg.norm(model["centres"] - centre, axis=1).argmin()
        picture = Image.fromarray(model["pictures"][nearest]).resize((view["w"], view["h"]))
        picture.save(given.output / f"{view['name']}.png")
