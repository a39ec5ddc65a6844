"""Libraries are built once, by one process, or the twins run; what arguments are checked for."""

from __future__ import annotations

import ctypes
import logging
import math
import multiprocessing
import stat
from pathlib import Path

import pytest
import torch

from methods.kernels import build as building
from methods.kernels import library
from methods.kernels.build import ARCHITECTURES, BuildError, build, find_toolchain, locate
from methods.kernels.cases import CASES
from methods.kernels.checks import check_device, check_finite, check_tensor
from methods.kernels.grid import Grid
from methods.kernels.mlp import mlp
from methods.kernels.modules import GridEncoding
from methods.kernels.selftest import TOLERANCE, relative_error

GRID = Grid(levels=3, base=4, growth=2.0, log2_size=8)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path, monkeypatch, cache) -> Path:
    """The one source of a small library, in place of the kernels'."""
    folder = tmp_path / "csrc"
    folder.mkdir()
    monkeypatch.setattr(building, "CSRC", folder)
    file = folder / "answer.cpp"
    file.write_text('extern "C" int answer() { return 42; }\n')
    return file


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Stand in for the C++ compiler: a shell script, told `--version` apart; its calls are counted in a file."""

    def make(body: str) -> Path:
        script, calls = tmp_path / "c++", tmp_path / "calls"
        calls.touch()
        version = '[ "$1" = --version ] && { echo "c++ 1.2.3"; exit; }'
        script.write_text(f'#!/bin/sh\n{version}\necho "$@" >> {calls}\n{body}\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("CXX", str(script))
        return calls

    return make


WRITES_ITS_OUTPUT = 'while [ "$1" != -o ]; do shift; done; sleep 0.2; echo made > "$2"'


@pytest.fixture
def fresh_library(monkeypatch):
    """Forget what is loaded, now and afterwards."""
    caches = (library.load, library.compiled)
    for each in caches:
        each.cache_clear()
    yield
    monkeypatch.undo()
    for each in caches:
        each.cache_clear()


# --- building --------------------------------------------------------------------------------------------------------


def test_a_library_is_compiled_once_and_works(source, monkeypatch):
    made = build("cpu")
    assert made == locate("cpu")
    assert ctypes.CDLL(str(made)).answer() == 42
    monkeypatch.setattr(building, "_run", lambda *_: pytest.fail("compiled again"))
    assert build("cpu") == made


@pytest.mark.parametrize(
    "change",
    [
        lambda source: source.write_text("int other;\n"),
        lambda source: (source.parent / "more.h").write_text(""),
        lambda source: source.rename(source.with_name("renamed.cpp")),
    ],
    ids=["a source", "a header", "a name"],
)
def test_a_change_of_the_sources_gives_another_folder(source, change):
    before = locate("cpu")
    change(source)
    assert locate("cpu").parent != before.parent


def test_another_torch_cpu_or_compiler_gives_another_folder(source, monkeypatch, compiler):
    places = [locate("cpu")]
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    places.append(locate("cpu"))
    monkeypatch.setattr(building, "_cpu_flags", lambda: "flags: sse9")
    places.append(locate("cpu"))
    compiler("exit 1")
    places.append(locate("cpu"))
    assert len(set(places)) == 4


def test_several_processes_build_once(source, compiler):
    calls = compiler(WRITES_ITS_OUTPUT)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        made = pool.map(build, ["cpu"] * 3)
    assert len(set(made)) == 1
    assert made[0].read_text() == "made\n"
    assert len(calls.read_text().splitlines()) == 2  # one source compiled, one library linked


def test_what_a_killed_build_left_is_no_library(source, compiler):
    library = locate("cpu")
    library.parent.mkdir(parents=True)
    (library.parent / "answer.o").write_text("half of an obj")
    library.with_suffix(".1.tmp").write_text("half of a libr")
    calls = compiler(WRITES_ITS_OUTPUT)
    assert build("cpu").read_text() == "made\n"
    assert len(calls.read_text().splitlines()) == 2


def test_a_compiler_that_fails_is_one_line_with_the_rest_in_a_log(source, compiler):
    compiler("echo 'answer.cpp: In function:\nanswer.cpp:1:2: error: no such thing\nnote: and more' >&2; exit 1")
    with pytest.raises(BuildError) as caught:
        build("cpu")
    words = str(caught.value)
    assert words.startswith("c++ failed: answer.cpp:1:2: error: no such thing (all of it in ")
    assert "\n" not in words
    log = Path(words.split("(all of it in ")[1].removesuffix(")"))
    assert "note: and more" in log.read_text()
    assert not locate("cpu").exists()


def test_a_compiler_that_dies_without_a_word_gives_its_exit_code(source, compiler):
    compiler("exit 3")
    with pytest.raises(BuildError, match="c\\+\\+ failed: exit code 3"):
        build("cpu")


def test_a_cache_that_cannot_be_written_is_a_build_error(source, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(BuildError, match=r"cannot build in .*\$XDG_CACHE_HOME names another place"):
        build("cpu")


def test_missing_compilers_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(building, "find_toolchain", lambda: building.Toolchain("/usr/bin/c++", None, None))
    with pytest.raises(BuildError, match="no nvcc"):
        build("cuda")
    monkeypatch.undo()
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    with pytest.raises(BuildError, match="no C\\+\\+ compiler"):
        build("cpu")


def test_a_toolkit_is_found_by_its_folder(tmp_path, monkeypatch):
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert find_toolchain().nvcc == str(nvcc)
    assert find_toolchain().cuda_home == tmp_path


def test_the_cuda_library_compiles_for_every_architecture_and_links():
    """Every ``.cu`` through nvcc, where there is one: minutes after a change of a source, nothing after that."""
    tools = find_toolchain()
    if tools.nvcc is None:
        pytest.skip("no nvcc: $CUDA_HOME, /usr/local/cuda and the path have none")
    if torch.version.cuda is None:
        pytest.skip("this torch is built without CUDA, so there is nothing to link with")
    made = build("cuda")
    torch.ops.load_library(str(made))
    library.load("cpu")
    names = [name.split("::") for name in torch._C._dispatch_get_all_op_names()]
    cpu, cuda = ({op for space, op in names if space == f"fieldbook_{kind}"} for kind in ("cpu", "cuda"))
    networks = {f"{net}_{way}" for net in ("mlp", "distance_net") for way in ("forward", "backward")}
    assert cpu - cuda == networks  # a GPU has cuBLAS for those
    command = building.nvcc_job(tools, Path("x.cu"), Path("x.o"))
    assert ARCHITECTURES == (75, 80, 90)
    assert all(f"-gencode=arch=compute_{a},code=sm_{a}" in command for a in ARCHITECTURES)
    assert "-gencode=arch=compute_90,code=compute_90" in command
    objects = [made.parent / f"{source.stem}.cu.o" for source in building.CSRC.glob("*.cu")]
    assert objects
    assert all(f"sm_{a}".encode() in each.read_bytes() for each in objects for a in ARCHITECTURES)


# --- loading ---------------------------------------------------------------------------------------------------------


def test_without_a_compiler_the_twins_run_with_one_warning(fresh_library, monkeypatch, caplog):
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    with caplog.at_level(logging.WARNING):
        errors = {case.name: relative_error(case, "cpu", size=60) for case in CASES}
    assert max(errors.values()) <= TOLERANCE, errors
    assert [r.getMessage() for r in caplog.records if r.name.startswith("methods.kernels")] == [
        "kernels for cpu: no C++ compiler (g++, or $CXX); install one to run the compiled kernels; "
        "the slower torch versions run instead"
    ]
    assert not library.has_kernels("cpu")


def test_without_a_compiler_the_sink_and_the_modules_work_as_with_one(fresh_library, monkeypatch):
    x = torch.rand(40, 3)
    encoding = GridEncoding(GRID, spread=1.0)
    encoding(x).sum().backward()
    with_kernels = encoding.table.grad.clone()
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    library.load.cache_clear()
    library.compiled.cache_clear()
    encoding.zero_grad(set_to_none=True)
    encoding(x).sum().backward()
    # Sums of up to 40 weights of at most 1, in another order.
    torch.testing.assert_close(encoding.table.grad, with_kernels, rtol=0, atol=40 * 2**-22)
    buffer = encoding.table.grad
    encoding(x).sum().backward()
    assert encoding.table.grad is buffer


def test_without_a_compiler_an_index_outside_is_still_refused(fresh_library, monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    with pytest.raises(ValueError, match=r"index must lie in 0..1, got -1..-1"):
        mlp(torch.ones(1, 2), [torch.ones(1, 3)], torch.ones(2, 1), torch.tensor([-1]))


def test_a_library_that_does_not_load_is_a_build_error(fresh_library, monkeypatch, tmp_path):
    (tmp_path / "libfieldbook_cpu.so").write_text("no library")
    monkeypatch.setattr(library, "build", lambda _: tmp_path / "libfieldbook_cpu.so")
    with pytest.raises(BuildError, match=r"libfieldbook_cpu.so does not load"):
        library.load("cpu")


def test_cuda_kernels_are_not_looked_for_without_a_device(fresh_library, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(library, "build", lambda _: pytest.fail("built"))
    with pytest.raises(BuildError, match="torch finds no CUDA device"):
        library.load("cuda")


def test_other_devices_have_the_twins():
    assert library.compiled("meta") is None
    assert not library.has_kernels("mps")


# --- checks ----------------------------------------------------------------------------------------------------------


def test_a_tensor_of_the_right_shape_and_type_passes():
    check_tensor("x", torch.zeros(4, 3), ("N", 3), torch.float32)
    check_tensor("x", torch.zeros(4, 3).half(), (4, 3), (torch.float32, torch.float16))
    check_tensor("x", torch.zeros(()), (), torch.float32)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ([1.0], TypeError, "x must be a tensor, got list"),
        (torch.zeros(4, 3).long(), TypeError, "x must be torch.float32 or torch.float16, got torch.int64"),
        (torch.zeros(4, 3).to_sparse(), TypeError, "x must be dense, got torch.sparse_coo"),
        (torch.zeros(4), ValueError, r"x must be \[N, 3\], got \[4\]"),
        (torch.zeros(4, 2), ValueError, r"x must be \[N, 3\], got \[4, 2\]"),
        (torch.zeros(4, 3, 1), ValueError, r"x must be \[N, 3\], got \[4, 3, 1\]"),
    ],
)
def test_a_wrong_tensor_is_named_with_what_is_allowed(value, error, words):
    with pytest.raises(error, match=words):
        check_tensor("x", value, ("N", 3), (torch.float32, torch.float16))


def test_tensors_on_two_devices_are_named():
    check_device(a=torch.zeros(1), b=None, c=torch.zeros(1))
    with pytest.raises(ValueError, match="a is on cpu and c on meta; move one"):
        check_device(a=torch.zeros(1), b=None, c=torch.zeros(1, device="meta"))


def test_only_nan_and_infinity_are_not_finite():
    check_finite("x", torch.zeros(0, 3))
    check_finite("x", torch.full((10,), 3e38))  # whose sum is infinite
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="x has 2 values that are NaN or infinite, of 10"):
            check_finite("x", torch.tensor([bad, -bad, *range(8)]))
