"""Datasets in nerfstudio's format."""


rule dataset:
    input:
        dataset_inputs,
    output:
        status="{dataset}/dataset.status.json",
    params:
        scene=lambda wildcards: STUDY.results.scene(DATASETS[wildcards.dataset].scene).root.as_posix(),
        poses=lambda wildcards: DATASETS[wildcards.dataset].poses(STUDY.results).root.as_posix(),
        mask=lambda wildcards: DATASETS[wildcards.dataset].mask,
        long_side=LONG_SIDE,
    log:
        "{dataset}/logs/dataset.log",
    benchmark:
        "{dataset}/logs/dataset.tsv"
    conda:
        ENV
    resources:
        cpus=1,
        mem_mb=500,
    shell:
        "fieldbook dataset {wildcards.dataset:q} --scene {params.scene:q} --poses {params.poses:q}"
        " --long-side {params.long_side} --mask {params.mask} > {log:q} 2>&1"
