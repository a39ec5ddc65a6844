"""Novel-view camera paths, and their true images where the capture is synthetic."""


rule path:
    input:
        scene_status("scene_frame"),
    output:
        status=f"{HERE}/{{scene}}/paths/{{name}}/path.status.json",
    params:
        folder=lambda wildcards: STUDY.files.path(wildcards.scene, wildcards.name).root.as_posix(),
        scene=lambda wildcards: STUDY.results.scene(wildcards.scene).root.as_posix(),
        spec=lambda wildcards: spec(STUDY.config["cones"][wildcards.name]),
        long_side=LONG_SIDE,
    log:
        f"{HERE}/{{scene}}/paths/{{name}}/logs/path.log",
    benchmark:
        f"{HERE}/{{scene}}/paths/{{name}}/logs/path.tsv"
    conda:
        ENV
    resources:
        cpus=1,
        mem_mb=1500,
    shell:
        "fieldbook path {params.folder:q} --scene {params.scene:q} --long-side {params.long_side}"
        " --spec {params.spec:q} > {log:q} 2>&1"
