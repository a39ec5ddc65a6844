"""What a headless process does not import, and that all of it still works when asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .runner_ball import SPEC, run_files, write_dataset

HEAVY = ("torch._dynamo", "torch._inductor", "torchvision", "torchmetrics", "matplotlib", "viser", "tensorboard", "av")
SMALL = {"pipeline.model.log2_hashmap_size": 10, "pipeline.model.num_levels": 2, "max_num_iterations": 3}


def in_a_process(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


TRAIN = """
import json, sys
from pathlib import Path
from fieldbook.layout import DatasetFiles, RunFiles
from methods.runner.train import train
run, dataset, spec = sys.argv[1:]
train(RunFiles(Path(run)), DatasetFiles(Path(dataset)), json.loads(spec))
print(*sorted({m for m in sys.modules if getattr(sys.modules[m], "__file__", None)}))
"""


@pytest.mark.parametrize(
    ("method", "small"),
    [
        ("nerfacto", SMALL),
        ("hash-nerf", {"max_num_iterations": 3}),
        pytest.param("vanilla-nerf", {"max_num_iterations": 1}, marks=pytest.mark.slow),
    ],
)
def test_a_training_imports_no_viewer_no_compiler_and_no_metrics(tmp_path: Path, method: str, small: dict[str, int]):
    dataset, run = write_dataset(tmp_path), run_files(tmp_path, method)
    spec = json.dumps({**SPEC, "method": method, "overrides": small})
    modules = in_a_process(TRAIN, str(run.root), str(dataset.root), spec).split()
    assert "nerfstudio.engine.trainer" in modules
    assert not {m for m in modules for heavy in HEAVY if m == heavy or m.startswith(f"{heavy}.")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import torch; assert torch.compile(lambda x: x + 1, backend='eager')(torch.ones(2)).tolist() == [2, 2]",
        "import torch._dynamo.config as config; assert config.recompile_limit > 0",
        "from torch._dynamo import config; assert config.recompile_limit > 0",
        "import torch; assert torch._dynamo.utils.counters is not None",
        "from torch._dynamo.utils import counters; import torch; assert torch._dynamo.utils.counters is counters",
        "import torch\n@torch.compiler.disable()\ndef f(): return 1\nassert f() == 1",
        "import torch\n@torch.compiler.disable(recursive=False)\ndef f(): return 1\nassert f() == 1",
        "import torch; assert torch._dynamo.disable(torch.nn.Linear(1, 1)).weight is not None",
        "import torch; torch.use_deterministic_algorithms(True)\n"
        "import torch._inductor.config as c; assert c.deterministic",
    ],
)
def test_the_compiler_is_there_when_it_is_asked_for(code: str):
    in_a_process(f"import methods.runner.registry, sys\n{code}\nassert sys.modules['torch._dynamo'].__file__")


OPTIMISED_AND_COMPILED = """
import methods.runner.registry, sys, torch
def trained():
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 3)
    optimizer = torch.optim.Adam(layer.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
    return layer.weight.detach().clone()
before = trained()
assert not hasattr(sys.modules["torch._dynamo"], "__file__")
torch.compile(lambda x: x + 1, backend="eager")(before)
assert sys.modules["torch._dynamo"].__file__
assert torch.equal(trained(), before)
"""


def test_optimisers_step_alike_before_and_after_the_compiler_is_imported():
    in_a_process(OPTIMISED_AND_COMPILED)


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import torchvision.transforms as t; a = t.Compose\n"
        "from torchvision.transforms import Compose as b; assert a is b",
        "import torchvision.utils as u; import torchvision\nassert u.make_grid is torchvision.utils.make_grid",
        "from torchmetrics import Metric\n"
        "from torchmetrics.image import TotalVariation as V; assert issubclass(V, Metric)",
        "import importlib.util; assert importlib.util.find_spec('torchvision')",
        "import torchvision, matplotlib; assert torchvision.__version__ and matplotlib.__version__",
        "from torchmetrics.image import StructuralSimilarityIndexMeasure as S\nclass T(S): pass",
        "import threading, matplotlib, viser, torchvision as v; sys.setswitchinterval(1e-6)\n"
        "found = []\ndef ask(): found.append((matplotlib.colormaps, viser.ViserServer, v.ops))\n"
        "threads = [threading.Thread(target=ask) for _ in range(16)]\n"
        "any(t.start() for t in threads); any(t.join() for t in threads)\nassert len(found) == 16",
        "import matplotlib; assert matplotlib.colormaps['viridis']",
        "import inspect; inspect.getmodule(inspect.currentframe())\n"
        "assert not hasattr(sys.modules['viser'], '__file__')",
    ],
)
def test_what_was_put_off_is_itself_when_it_is_used_meanwhile(code: str):
    in_a_process(
        "from methods.runner.on_demand import put_off; import sys\nwith put_off():\n    " + code.replace("\n", "\n    ")
    )


AFTERWARDS = """
from methods.runner.on_demand import put_off
with put_off():
    from torchmetrics.functional import structural_similarity_index_measure as later
    import torchvision.utils as utils
import torch, torchmetrics.functional, torchvision, sys
assert torchvision.utils.__file__ and torchmetrics.functional.__file__
a, b = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
assert later(a, b) == torchmetrics.functional.structural_similarity_index_measure(a, b)
assert utils.make_grid is torchvision.utils.make_grid
"""


def test_what_holds_a_stand_in_finds_the_real_one_later():
    in_a_process(AFTERWARDS)


def test_psnr_is_that_of_torchmetrics():
    import torch
    from torchmetrics.image import PeakSignalNoiseRatio

    from methods.runner.on_demand import Psnr

    a, b = torch.rand(2, 3, 5, 7), torch.rand(2, 3, 5, 7)
    for data_range in (1.0, 255.0):
        torch.testing.assert_close(Psnr(data_range)(a, b), PeakSignalNoiseRatio(data_range=data_range)(a, b))


def test_a_method_alone_is_the_one_of_nerfstudios_table():
    from nerfstudio.configs.method_configs import method_configs

    from methods.runner.registry import _alone
    from methods.runner.setup import plain_config

    assert len(method_configs) > 15
    for name, config in method_configs.items():
        alone = _alone(name)
        assert alone is not None, name
        assert plain_config(alone) == plain_config(config)


ANOTHERS = """
import sys, socket
from types import SimpleNamespace
import methods.runner.registry
from methods.runner.offline import NoLpips, without_downloads
class Model: pass
with without_downloads(SimpleNamespace(_target=Model)):
    from torchmetrics import MeanMetric
    from torchmetrics.image import PeakSignalNoiseRatio
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    assert isinstance(LearnedPerceptualImagePatchSimilarity(normalize=True), NoLpips)
    PeakSignalNoiseRatio(reduction="none", dim=1, data_range=1.0).reset()
    MeanMetric().update(1.0)
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
assert LearnedPerceptualImagePatchSimilarity is not NoLpips
"""


def test_a_model_of_somebody_elses_finds_torchmetrics_whole_but_for_what_it_downloads():
    in_a_process(ANOTHERS)
