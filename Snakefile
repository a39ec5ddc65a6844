# Radiance Fieldbook: from a video to a research log. `snakemake --cores 8` runs config.yaml;
# `snakemake --cores 8 --configfile examples/fox.yaml` runs another study.
from snakemake.utils import min_version

min_version("9.0")

# A study given on the command line replaces the default one: merging two studies would run scenes nobody asked for.
if not workflow.overwrite_configfiles:

    configfile: "config.yaml"


report: "workflow/report/study.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/scene.smk"
include: "workflow/rules/dataset.smk"
include: "workflow/rules/paths.smk"
include: "workflow/rules/runs.smk"
include: "workflow/rules/study.smk"


rule all:
    input:
        STUDY.files.report.as_posix(),
        STUDY.files.sync.as_posix(),
        # Asked for by name: Snakemake does not miss a run that is gone as long as the report made from it is there.
        all_scores,
        all_geometries,
    default_target: True
