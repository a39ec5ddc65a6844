"""What the machine lets a process use, and how many processes the kernel has killed."""

import os

import pytest

from fieldbook.errors import UserError
from fieldbook.machine import choose_device, oom_kills, usable_cpus, usable_memory_mb


def test_container_limits_cut_down_cpus_and_memory(tmp_path):
    (tmp_path / "cpu").write_text("100000 100000\n")
    (tmp_path / "memory").write_text(f"{1 << 30}\n")
    (tmp_path / "max").write_text("max\n")
    assert usable_cpus(tmp_path / "cpu") == 1
    assert usable_cpus(tmp_path / "none") == len(os.sched_getaffinity(0))
    assert usable_memory_mb((tmp_path / "memory", tmp_path / "max")) == 921
    assert usable_memory_mb(()) > 921


V1 = "9:name=systemd:/\n4:memory:/jobs/7\n1:cpu,cpuacct:/other\n0::/\n"
V2 = "0::/jobs/7\n"


@pytest.mark.parametrize(
    ("own", "counter", "found"),
    [
        (V1, "memory/jobs/7/memory.oom_control", True),
        (V1, "memory/memory.oom_control", True),  # a container that sees its own group as the root
        (V1, "memory/other/memory.oom_control", False),
        (V2, "jobs/7/memory.events", True),
        (V2, "jobs/memory.events", True),  # the group's memory is counted with that of its parent
        (V2, "memory.events", True),
        (V2, "jobs/8/memory.events", False),
        (V1 + "0::/jobs/7\n", "unified/jobs/7/memory.events", False),
        ("", "memory.events", False),
    ],
)
def test_processes_that_the_kernel_killed_are_counted_in_our_own_group(own, counter, found, tmp_path):
    for name, lines in {
        "cgroup": own,
        f"groups/{counter}": "oom_kill_disable 0\nunder_oom 0\noom 7\noom_kill 3\noom_group_kill 8\n",
        "vmstat": "nr_free_pages 5\noom_kill 40\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(lines)
    assert oom_kills(tmp_path / "cgroup", tmp_path / "groups", tmp_path / "vmstat") == (3 if found else 40)


def test_the_nearest_group_counts(tmp_path):
    (tmp_path / "own").write_text(V2)
    for folder, kills in ((tmp_path / "jobs/7", 1), (tmp_path / "jobs", 2), (tmp_path, 3)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.events").write_text(f"oom_kill {kills}\n")
    assert oom_kills(tmp_path / "own", tmp_path, tmp_path / "none") == 1


def test_nobody_was_killed_where_nothing_counts(tmp_path):
    assert oom_kills(tmp_path / "own", tmp_path, tmp_path / "none") == 0


@pytest.mark.parametrize(
    ("asked", "there", "chosen"),
    [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_a_device_is_chosen_by_what_there_is(asked, there, chosen):
    assert choose_device(asked, lambda: there, "") == chosen


@pytest.mark.parametrize(
    ("asked", "words"), [("cuda", "device: cuda, but there is no GPU; set device: auto or cpu"), ("gpu", "no device")]
)
def test_a_device_that_is_not_there_is_a_mistake(asked, words):
    with pytest.raises(UserError, match=words):
        choose_device(asked, lambda: False, "there is no GPU")
