"""What this machine has, and whether the compiled kernels work on it: ``fieldbook doctor``."""

from __future__ import annotations

import importlib.util
import math
import re
import time
from collections.abc import Callable
from typing import Any

import torch

from fieldbook.errors import FieldbookError
from fieldbook.machine import cpu_name, usable_cpus, usable_memory_mb
from fieldbook.versions import versions
from methods.kernels.build import BuildError, Kind, build, compiler_version, find_toolchain, locate
from methods.kernels.cases import CASES, Case
from methods.kernels.library import load
from methods.kernels.selftest import TOLERANCE, relative_error, seconds
from methods.runner.needs import KERNELS, kernels_problem

Say = Callable[[str], None]


def examine(say: Say) -> dict[str, Any]:
    """Look at the machine, build the kernel libraries, compare every op with its torch twin, and time both.

    Args:
        say: Takes each line of the report when it is known.

    Returns:
        The report's facts: plain values, ready for JSON.
    """
    facts: dict[str, Any] = {"versions": versions(), "machine": _machine(), "compilers": _compilers()}
    _say_machine(facts, say)
    facts["libraries"] = {kind: _library(kind, say) for kind in ("cpu", "cuda")}
    facts["self_test"] = []
    for device in ("cpu", "cuda"):
        if not facts["libraries"][device]["loaded"]:
            continue
        say(f"\nself-test on {device}, each op against its torch version; forward and backward:")
        for case in (c for c in CASES if device == "cpu" or not c.cpu_only):
            row = _self_test(case, device)
            facts["self_test"].append(row)
            say(_line(row))
    facts["optional"] = _optional()
    say("\noptional:")
    for name, state in facts["optional"].items():
        say(f"  {name:10s} {state}")
    return facts


def check(facts: dict[str, Any]) -> None:
    """Check that every op that was tested works.

    Raises:
        FieldbookError: Names those that do not.
    """
    bad = [f"{row['op']} on {row['device']}" for row in facts["self_test"] if not row["ok"]]
    if bad:
        raise FieldbookError(
            f"self-test failed: {', '.join(bad)}; CXX=none fieldbook ... runs the torch versions instead"
        )


def _machine() -> dict[str, Any]:
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return {
        "cpu": cpu_name(),
        "usable_cpus": usable_cpus(),
        "torch_threads": torch.get_num_threads(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "usable_memory_mb": usable_memory_mb(),
        "torch_cuda": torch.version.cuda,
        "gpus": [_gpu(k) for k in gpus],
    }


def _gpu(index: int) -> dict[str, Any]:
    found = torch.cuda.get_device_properties(index)
    return {
        "name": found.name,
        "memory_mb": found.total_memory >> 20,
        "compute_capability": f"{found.major}.{found.minor}",
    }


def _compilers() -> dict[str, Any]:
    tools = find_toolchain()
    paths = {"c++": tools.cxx, "nvcc": tools.nvcc}
    return {name: path and {"path": path, "version": _number(compiler_version(path))} for name, path in paths.items()}


def _number(words: str) -> str:
    """The version in what a compiler says of itself."""
    found = re.search(r"\d+\.\d+\.\d+", words)
    return found.group() if found else "unknown"


def _say_machine(facts: dict[str, Any], say: Say) -> None:
    machine = facts["machine"]
    say(
        ", ".join(f"{name} {facts['versions'].get(name.lower(), 'none')}" for name in ("Python", "torch", "nerfstudio"))
    )
    threads, vectors = machine["torch_threads"], machine["vector_instructions"]
    say(f"CPU: {machine['cpu']}, {machine['usable_cpus']} usable, torch threads {threads}, {vectors}")
    say(f"memory: {machine['usable_memory_mb'] / 1024:.1f} GiB usable")
    for gpu in machine["gpus"]:
        say(f"GPU: {gpu['name']}, {gpu['memory_mb'] / 1024:.1f} GiB, compute capability {gpu['compute_capability']}")
    if not machine["gpus"]:
        built = f"for CUDA {machine['torch_cuda']}" if machine["torch_cuda"] else "without CUDA"
        say(f"GPU: none (torch is built {built})")
    for name, found in facts["compilers"].items():
        say(f"{name}: {found['version']} ({found['path']})" if found else f"{name}: none")


def _library(kind: Kind, say: Say) -> dict[str, Any]:
    """Build a library, and load it where its device is."""
    found: dict[str, Any] = {"path": None, "cached": False, "build_s": None, "loaded": False, "problem": None}
    usable = kind == "cpu" or torch.cuda.is_available()
    try:
        found["cached"] = locate(kind).is_file()
        if not found["cached"]:
            say(f"kernels for {kind}: building ...")
        start = time.perf_counter()
        found["path"] = str(build(kind))
        found["build_s"] = 0.0 if found["cached"] else round(time.perf_counter() - start, 1)
        if usable:
            load(kind)
        found["loaded"] = usable
    except BuildError as error:
        found["problem"] = str(error)
    say(_library_line(kind, found, usable))
    return found


def _library_line(kind: Kind, found: dict[str, Any], usable: bool) -> str:
    if found["problem"] is None:
        took = "cached" if found["cached"] else f"built in {found['build_s']} s"
        return f"kernels for {kind}: {took}, {found['path']}" + ("" if usable else "; no device to run them on")
    effect = "warning: the slower torch versions run instead" if usable else "none needed without a GPU"
    return f"kernels for {kind}: {found['problem']}; {effect}"


def _self_test(case: Case, device: str) -> dict[str, Any]:
    row: dict[str, Any] = {"op": case.name, "device": device, "ok": False, "relative_error": None, "problem": None}
    try:
        error = relative_error(case, device)
        row["ok"] = error <= TOLERANCE
        row["relative_error"] = error if math.isfinite(error) else None
        row["kernel_s"], row["torch_s"] = (seconds(case, f, device) for f in (case.kernel, case.twin))
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:  # what a broken or a missing op raises
        row["ok"], row["problem"] = False, (str(error).splitlines() or [type(error).__name__])[0]
    return row


def _line(row: dict[str, Any]) -> str:
    if row["problem"] is not None:
        return f"  {row['op']:20s} FAILED  {row['problem']}"
    error = "other choices" if row["relative_error"] is None else f"error {row['relative_error']:.0e}"
    kernel, twin = row["kernel_s"] * 1e3, row["torch_s"] * 1e3
    times = f"{kernel:9.2f} ms  torch {twin:9.2f} ms  {twin / kernel:6.1f}x"
    return f"  {row['op']:20s} {'ok' if row['ok'] else 'FAILED':7s} {error:14s} {times}"


def _optional() -> dict[str, str]:
    import av
    import pycolmap

    states = {
        "ffmpeg": f"{av.ffmpeg_version_info} (PyAV {av.__version__})",
        "COLMAP": f"{pycolmap.__version__} (pycolmap, {'with' if pycolmap.has_cuda else 'without'} CUDA)",
    }
    for package in KERNELS:
        states[package] = _cuda_package(package)
    there = importlib.util.find_spec("tinycudann") is not None
    states["tinycudann"] = "installed" if there else "not installed; no package registry has it"
    return states


def _cuda_package(package: str) -> str:
    if importlib.util.find_spec(package) is None:
        return "not installed"
    if not torch.cuda.is_available():
        return "installed; needs a CUDA GPU"
    problem = kernels_problem(package)
    return f"installed; its CUDA kernels: {problem}" if problem else "works"
