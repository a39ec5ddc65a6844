#!/usr/bin/env bash
# Snakemake runs this in a new environment, from the folder of the Snakefile: put the project itself into it.
set -euo pipefail
pip install --no-deps --editable "${FIELDBOOK_ROOT:-$PWD}"
