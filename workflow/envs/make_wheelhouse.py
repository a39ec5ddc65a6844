"""Fetch a wheel of every package of requirements.lock into a folder: `make wheelhouse`.

Runs on Python's standard library and pip alone. docs/offline.md says what for.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

LOCK = Path(__file__).parent / "../../requirements.lock"
THERE = ("torch", "torchvision")
"""What MINIMAL takes for granted, together with what only they need: CUDA's libraries, Triton."""


@dataclass
class Pin:
    """A line of the lock.

    Attributes:
        line: ``name==version``.
        via: Names of the packages that ask for it; ``-r requirements.in`` for the project itself.
    """

    line: str
    via: set[str] = field(default_factory=set)


def read_lock(text: str) -> dict[str, Pin]:
    """Pins by package name, from the text of a lock with uv's ``# via`` comments."""
    pins: dict[str, Pin] = {}
    name = ""
    for line in text.splitlines():
        if line and line[0] not in "# ":
            name = line.partition("==")[0]
            pins[name] = Pin(line)
        elif name and (by := line.strip().removeprefix("#").strip().removeprefix("via").strip()):
            pins[name].via.add(by)
    return pins


def without(pins: dict[str, Pin], roots: tuple[str, ...]) -> dict[str, Pin]:
    """Pins less the roots and what nothing but they asks for."""
    gone = set(roots)
    while more := {name for name, pin in pins.items() if pin.via and pin.via <= gone} - gone:
        gone |= more
    return {name: pin for name, pin in pins.items() if name not in gone}


def file_name(pin: str) -> str:
    """How the wheel of a pin begins: ``name-version-``."""
    name, version = pin.split(" ")[0].split("==")
    return f"{re.sub(r'[-_.]+', '_', name).lower()}-{version}-"


def remove_others(folder: Path, pins: dict[str, Pin]) -> None:
    """Delete wheels of other packages or versions, left by an earlier call."""
    wanted = tuple(file_name(pin.line) for pin in pins.values())
    for path in folder.glob("*.whl"):
        name, version, rest = path.name.split("-", 2)
        if not f"{name.lower()}-{version}-{rest}".startswith(wanted):
            path.unlink()


def fetch(folder: Path, pins: dict[str, Pin], python: str | None) -> list[str]:
    """Fetch the wheels, and build those that are only published as sources.

    Args:
        folder: Where they go.
        pins: What to fetch.
        python: The Python version they are for; None for the one that runs this.

    Returns:
        Names of packages that are left out: they have to be compiled, and cannot be for another Python version.
    """
    listed = folder / "requirements.txt"
    listed.write_text("".join(f"{pin.line}\n" for pin in pins.values()), encoding="utf-8")
    version = ["--python-version", python, "--implementation", "cp"] if python else []
    pip("download", "--no-deps", "--dest", str(folder), "--requirement", str(listed), *version)
    left_out = []
    for source in [path for path in folder.iterdir() if path.name.endswith((".tar.gz", ".zip"))]:
        before = set(folder.glob("*.whl"))
        pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(source))
        source.unlink()
        for wheel in set(folder.glob("*.whl")) - before:
            if python and not wheel.name.endswith("-none-any.whl"):
                wheel.unlink()
                left_out.append(wheel.name.split("-")[0].replace("_", "-"))
    kept = (pin.line for name, pin in pins.items() if name not in left_out)
    listed.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    return sorted(left_out)


def pip(*arguments: str) -> None:
    """Run pip; its message is enough where it fails."""
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)


def main() -> None:
    """Fetch, and say what there is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minimal", action="store_true", help=f"without {' and '.join(THERE)}, and what they bring")
    parser.add_argument("--python", help="a Python version, such as 3.12; default: this one's")
    arguments = parser.parse_args()
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    python = arguments.python if arguments.python and arguments.python != own else None
    pins = read_lock(LOCK.read_text(encoding="utf-8"))
    if arguments.minimal:
        pins = without(pins, THERE)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    remove_others(arguments.folder, pins)
    print(f"fetching {len(pins)} packages ...", flush=True)
    left_out = fetch(arguments.folder, pins, python)
    wheels = list(arguments.folder.glob("*.whl"))
    size = sum(path.stat().st_size for path in wheels) / 1e6
    print(f"{arguments.folder}: {len(wheels)} wheels for Python {python or own}, {size:.0f} MB")
    if left_out:
        print(f"left out, for they have to be compiled by Python {python} itself: {', '.join(left_out)}")


if __name__ == "__main__":
    main()
