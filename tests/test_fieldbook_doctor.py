"""The doctor says what is there, finds a kernel that is wrong, and does not mind a missing compiler."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

import fieldbook.doctor
from fieldbook.cli import main
from methods.kernels import reference, selftest
from methods.kernels.build import Toolchain, find_toolchain
from methods.kernels.cases import CASES, Case

NAMES = [case.name for case in CASES]
ADAM, MORTON = CASES[NAMES.index("adam_step_")], CASES[NAMES.index("morton3d")]


@pytest.fixture
def quick(monkeypatch):
    """The doctor without CUDA's compiler, with two ops and one timed call of each."""
    tools = dataclasses.replace(find_toolchain(), nvcc=None, cuda_home=None)
    monkeypatch.setattr("methods.kernels.build.find_toolchain", lambda: tools)
    monkeypatch.setattr(fieldbook.doctor, "find_toolchain", lambda: tools)
    monkeypatch.setattr(fieldbook.doctor, "seconds", lambda *a: selftest.seconds(*a, size=100, budget=0))
    use_cases(monkeypatch, ADAM, MORTON)


def use_cases(monkeypatch, *cases: Case) -> None:
    monkeypatch.setattr(fieldbook.doctor, "CASES", cases)


def wrong(case: Case, kernel) -> Case:
    return dataclasses.replace(case, kernel=kernel)


# --- the cases -------------------------------------------------------------------------------------------------------


def test_every_op_with_a_twin_has_a_case():
    assert sorted(NAMES) == sorted(reference.__all__)
    for case in CASES:
        assert case.twin is getattr(reference, case.name)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_kernel_is_as_good_as_its_twin_in_float64(device, case, seed):
    assert selftest.relative_error(case, device, seed=seed) <= selftest.TOLERANCE


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_a_case_changes_and_differentiates_what_it_says(case):
    arguments = case.arguments(50)
    again = case.arguments(50)
    made = selftest.results(case, case.twin, selftest.placed(case, arguments, "cpu", torch.float32))
    assert all(torch.isfinite(v).all() for v in made if v.is_floating_point())
    assert len(made) >= len(case.changed) + len(case.wants) + (not case.changed)
    for a, b in zip(selftest.tensors(arguments), selftest.tensors(again), strict=True):
        assert torch.equal(a, b)  # the same seed gives the same inputs, and running a case leaves them as they were


def off_by(amount: float):
    def kernel(*arguments):
        ADAM.kernel(*arguments)
        arguments[0][7] += amount

    return wrong(ADAM, kernel)


def no_moment(*arguments):
    param, grad, mean, square, numbers = arguments
    ADAM.kernel(param, grad, mean.clone(), square, numbers)


@pytest.mark.parametrize(
    ("case", "error"),
    [
        (off_by(0.01), pytest.approx(0.01, rel=0.05)),
        (off_by(math.nan), math.inf),
        (wrong(ADAM, no_moment), pytest.approx(0.1, rel=0.9)),
        (wrong(MORTON, lambda coords: MORTON.kernel(coords) + 1), math.inf),
        (wrong(MORTON, lambda coords: MORTON.kernel(coords)[:-1]), math.inf),
        (wrong(MORTON, lambda coords: (MORTON.kernel(coords),) * 2), math.inf),
    ],
    ids=["value", "NaN", "a moment", "choice", "shape", "number of outputs"],
)
def test_a_wrong_kernel_is_seen(case, error):
    assert selftest.relative_error(case, "cpu") == error


def test_a_missing_gradient_is_seen():
    case = CASES[NAMES.index("spherical_harmonics")]
    blind = wrong(case, lambda directions, degree: case.kernel(directions.detach(), degree))
    assert selftest.relative_error(blind, "cpu") == math.inf


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_report_and_the_json_say_the_same(quick, capsys, tmp_path):
    assert main(["doctor", "--json", str(tmp_path / "facts.json")]) == 0
    text = capsys.readouterr().out
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["versions"]["python"] in text
    assert f"torch {facts['versions']['torch']}" in text
    assert facts["machine"]["cpu"] in text
    assert facts["compilers"]["c++"]["path"] == find_toolchain().cxx
    assert f"c++: {facts['compilers']['c++']['version']}" in text
    assert "nvcc: none" in text
    assert facts["libraries"]["cpu"]["path"] in text
    rows = [row for row in facts["self_test"] if row["device"] == "cpu"]
    assert [(row["op"], row["ok"]) for row in rows] == [("adam_step_", True), ("morton3d", True)]
    assert all(f"  {row['op']}" in text and row["kernel_s"] > 0 and row["torch_s"] > 0 for row in rows)
    assert {"ffmpeg", "COLMAP", "gsplat", "nerfacc", "tinycudann"} == set(facts["optional"])


def test_the_second_time_the_library_is_cached(quick, capsys, tmp_path):
    for _ in range(2):
        assert main(["doctor", "--json", str(tmp_path / "facts.json")]) == 0
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["libraries"]["cpu"]["cached"] is True
    assert "kernels for cpu: cached" in capsys.readouterr().out


def test_a_kernel_that_is_wrong_ends_with_one_line_and_exit_code_2(quick, capsys, monkeypatch, tmp_path):
    use_cases(monkeypatch, off_by(0.01), MORTON)
    assert main(["doctor", "--json", str(tmp_path / "facts.json")]) == 2
    out, error = capsys.readouterr()
    assert "adam_step_           FAILED  error 1e-02" in out
    assert "morton3d             ok" in out
    assert error.startswith("fieldbook: self-test failed: adam_step_ on cpu;")
    assert error.count("\n") == 1
    assert json.loads((tmp_path / "facts.json").read_text())["self_test"][0]["ok"] is False


def test_a_kernel_that_raises_fails_with_its_own_words(quick, capsys, monkeypatch):
    def raises(_):
        raise RuntimeError("no such op\nand much more")

    use_cases(monkeypatch, wrong(MORTON, raises), ADAM)
    assert main(["doctor"]) == 2
    out, error = capsys.readouterr()
    assert "morton3d             FAILED  no such op\n" in out
    assert "adam_step_           ok" in out
    assert "self-test failed: morton3d on cpu" in error


def test_a_missing_compiler_is_a_warning(quick, capsys, monkeypatch, tmp_path):
    for module in ("methods.kernels.build", "fieldbook.doctor"):
        monkeypatch.setattr(f"{module}.find_toolchain", lambda: Toolchain(None, None, None))
    assert main(["doctor", "--json", str(tmp_path / "facts.json")]) == 0
    out = capsys.readouterr().out
    assert "c++: none" in out
    assert "kernels for cpu: no C++ compiler (g++, or $CXX)" in out
    assert "warning: the slower torch versions run instead" in out
    assert not [r for r in json.loads((tmp_path / "facts.json").read_text())["self_test"] if r["device"] == "cpu"]


def test_versions_are_found_in_what_compilers_say():
    gnu = "g++ (Debian 12.2.0-14+deb12u1) 12.2.0\nCopyright"
    nvidia = "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 13.0, V13.0.88\n"
    assert fieldbook.doctor._number(gnu) == "12.2.0"
    assert fieldbook.doctor._number(nvidia) == "13.0.88"
    assert fieldbook.doctor._number("") == "unknown"
