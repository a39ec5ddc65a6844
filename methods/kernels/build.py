"""Compile the kernel libraries on first use, and cache them by everything that their bytes depend on."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

Kind = Literal["cpu", "cuda"]
CSRC = Path(__file__).parent / "csrc"
ARCHITECTURES = (75, 80, 90)
"""Compute capabilities the CUDA library holds code for; 90 also as PTX, which newer GPUs translate."""

# Written against LibTorch's stable ABI of 2.10, so one library serves every Python and every later torch.
_CXX_FLAGS = ["-O3", "-std=c++20", "-fPIC", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"]
_CXX_FLAGS += ["-march=native", "-DTORCH_TARGET_VERSION=0x020a000000000000ULL"]
_NVCC_FLAGS = ["-O3", "-lineinfo", "-std=c++20", "-Xcompiler", "-fPIC"]


class BuildError(RuntimeError):
    """A library could not be built; the text says why, in one line, and where the compiler's words are."""


@dataclass(frozen=True)
class Toolchain:
    """What was found on this machine.

    Attributes:
        cxx: The C++ compiler, ``$CXX`` or g++; None if there is none.
        nvcc: CUDA's compiler; None if there is none.
        cuda_home: Its toolkit's folder.
    """

    cxx: str | None
    nvcc: str | None
    cuda_home: Path | None


def find_toolchain() -> Toolchain:
    """Look for the compilers: ``$CXX``, g++; ``$CUDA_HOME``, /usr/local/cuda, then nvcc on the path."""
    cxx = shutil.which(os.environ.get("CXX", "g++"))
    homes = [Path(h) for h in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if h]
    on_path = shutil.which("nvcc")
    # An nvcc on the path may be a wrapper that lies outside its toolkit, so folders come first.
    homes += [Path(on_path).resolve().parent.parent] if on_path else []
    home = next((h for h in homes if (h / "bin" / "nvcc").is_file()), None)
    return Toolchain(cxx, str(home / "bin" / "nvcc") if home else None, home)


def cache_root() -> Path:
    """``$XDG_CACHE_HOME/radiance-fieldbook/kernels``; the build tree of every variant lies below it."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "radiance-fieldbook" / "kernels"


def locate(kind: Kind) -> Path:
    """Where a library is, or will be once it is built.

    Args:
        kind: ``cpu`` needs a C++20 compiler, ``cuda`` also nvcc and a torch built for CUDA.

    Raises:
        BuildError: A compiler is missing.
    """
    tools = find_toolchain()
    if tools.cxx is None:
        raise BuildError("no C++ compiler (g++, or $CXX); install one to run the compiled kernels")
    if kind == "cuda" and tools.nvcc is None:
        raise BuildError("no nvcc (in $CUDA_HOME, /usr/local/cuda or on the path)")
    return cache_root() / f"{kind}-{_key(kind, tools)}" / f"libfieldbook_{kind}.so"


def build(kind: Kind) -> Path:
    """Compile a library, or find it in the cache.

    Args:
        kind: As in ``locate``.

    Returns:
        The shared library.

    Raises:
        BuildError: No compiler, or it failed, or the cache cannot be written.
    """
    library = locate(kind)
    folder = library.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Many jobs of a study start at once: one builds, the others wait.
        with open(folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not library.is_file():
                _compile(kind, find_toolchain(), folder, library)
    except OSError as error:
        raise BuildError(f"cannot build in {folder}: {error}; $XDG_CACHE_HOME names another place") from error
    return library


def _key(kind: Kind, tools: Toolchain) -> str:
    """Hash of sources, flags, torch, compilers and this CPU's instruction set (``-march=native``)."""
    digest = hashlib.sha256()
    for path in sorted(p for p in CSRC.rglob("*") if p.is_file()):
        digest.update(path.relative_to(CSRC).as_posix().encode() + path.read_bytes())
    parts = [torch.__version__, platform.machine(), _cpu_flags(), *_CXX_FLAGS, compiler_version(tools.cxx)]
    if kind == "cuda":
        parts += [*_NVCC_FLAGS, str(ARCHITECTURES), compiler_version(tools.nvcc)]
    digest.update("\n".join(parts).encode())
    return digest.hexdigest()[:16]


def _cpu_flags() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def compiler_version(compiler: str | None) -> str:
    """What a compiler says of itself."""
    run = subprocess.run([str(compiler), "--version"], capture_output=True, text=True, check=False)
    return run.stdout


def _compile(kind: Kind, tools: Toolchain, folder: Path, library: Path) -> None:
    """Compile every source on its own, as many at a time as there are CPUs, then link."""
    jobs = [_cxx_job(kind, tools, source, folder) for source in sorted(CSRC.glob("*.cpp"))]
    if kind == "cuda":
        jobs += [nvcc_job(tools, source, folder / f"{source.stem}.cu.o") for source in sorted(CSRC.glob("*.cu"))]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(lambda job: _run(job, folder), jobs))
    temporary = library.with_suffix(f".{os.getpid()}.tmp")
    _run(_link_job(kind, tools, folder, temporary), folder)
    temporary.rename(library)


def _cxx_job(kind: Kind, tools: Toolchain, source: Path, folder: Path) -> list[str]:
    flags = [*_CXX_FLAGS, f"-I{_torch() / 'include'}"]
    if kind == "cuda":
        flags += ["-DFIELDBOOK_CUDA", "-DUSE_CUDA", f"-I{tools.cuda_home}/include"]
    return [str(tools.cxx), *flags, "-c", str(source), "-o", str(folder / f"{source.stem}.o")]


def nvcc_job(tools: Toolchain, source: Path, target: Path) -> list[str]:
    """The command that compiles one ``.cu`` for every architecture."""
    codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    codes.append(f"-gencode=arch=compute_{ARCHITECTURES[-1]},code=compute_{ARCHITECTURES[-1]}")
    host = ["-ccbin", str(tools.cxx)]
    return [str(tools.nvcc), *_NVCC_FLAGS, *host, *codes, "-c", str(source), "-o", str(target)]


def _link_job(kind: Kind, tools: Toolchain, folder: Path, target: Path) -> list[str]:
    lib = _torch() / "lib"
    flags = ["-shared", f"-L{lib}", "-ltorch_cpu", f"-Wl,-rpath,{lib}"]
    if kind == "cuda":
        flags += ["-ltorch_cuda", f"-L{tools.cuda_home}/lib64", "-lcudart"]
    objects = [str(p) for p in sorted(folder.glob("*.o"))]
    return [str(tools.cxx), *objects, *flags, "-o", str(target)]


def _torch() -> Path:
    return Path(torch.__file__).parent


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    log = folder / "build.log"
    log.write_text(" ".join(command) + "\n" + done.stdout + done.stderr, encoding="utf-8")
    first = next((line for line in done.stderr.splitlines() if "error" in line), f"exit code {done.returncode}")
    raise BuildError(f"{Path(command[0]).name} failed: {first.strip()} (all of it in {log})")
