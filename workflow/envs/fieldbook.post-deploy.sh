#!/usr/bin/env bash
# Snakemake runs this in each new environment, from the folder it was started in: put the project itself into it.
# Without it `fieldbook` would come from outside the environment.
set -euo pipefail
test -f pyproject.toml || { echo "start snakemake --sdm conda from the checkout" >&2; exit 1; }
pip install --no-deps --no-build-isolation --editable .
python -c "import sys, shutil; found = shutil.which('fieldbook'); sys.exit(not found.startswith(sys.prefix))"
