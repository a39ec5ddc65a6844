"""Write fieldbook.yaml, the conda environment of every rule, from requirements.lock."""

from pathlib import Path

here = Path(__file__).parent
pins = [
    line.strip()
    for line in (here / "../../requirements.lock").read_text(encoding="utf-8").splitlines()
    if line.strip() and not line.strip().startswith("#")
]
head = ["# Made from requirements.lock by `make lock`.", "channels:", "  - conda-forge", "dependencies:"]
body = ["  - python=3.11", "  - pip", "  - pip:", *(f"      - {pin}" for pin in pins)]
(here / "fieldbook.yaml").write_text("\n".join(head + body) + "\n", encoding="utf-8")
