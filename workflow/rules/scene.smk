"""Stages of a scene, shared by all studies."""


rule capture:
    output:
        status=f"{ROOT}/scenes/{{scene}}/capture.status.json",
    params:
        scene=lambda wildcards: STUDY.results.scene(wildcards.scene).root.as_posix(),
        spec=scene_spec("capture"),
    log:
        f"{ROOT}/scenes/{{scene}}/logs/capture.log",
    benchmark:
        f"{ROOT}/scenes/{{scene}}/logs/capture.tsv"
    conda:
        ENV
    threads: CPUS
    resources:
        cpus=CPUS,
        mem_mb=2500,
    shell:
        "fieldbook capture {params.scene:q} --spec {params.spec:q} > {log:q} 2>&1"


rule frames:
    input:
        scene_status("capture"),
    output:
        status=f"{ROOT}/scenes/{{scene}}/frames.status.json",
    params:
        scene=lambda wildcards: STUDY.results.scene(wildcards.scene).root.as_posix(),
        spec=scene_spec("frames"),
    log:
        f"{ROOT}/scenes/{{scene}}/logs/frames.log",
    benchmark:
        f"{ROOT}/scenes/{{scene}}/logs/frames.tsv"
    conda:
        ENV
    threads: CPUS
    resources:
        cpus=CPUS,
        mem_mb=2000,
    shell:
        "fieldbook frames {params.scene:q} --spec {params.spec:q} > {log:q} 2>&1"


rule reference:
    input:
        scene_status("frames"),
    output:
        status=f"{ROOT}/scenes/{{scene}}/reference.status.json",
    params:
        scene=lambda wildcards: STUDY.results.scene(wildcards.scene).root.as_posix(),
        spec=scene_spec("reference"),
    log:
        f"{ROOT}/scenes/{{scene}}/logs/reference.log",
    benchmark:
        f"{ROOT}/scenes/{{scene}}/logs/reference.tsv"
    conda:
        ENV
    threads: CPUS
    resources:
        cpus=CPUS,
        mem_mb=4000,
    shell:
        "fieldbook reference {params.scene:q} --spec {params.spec:q} > {log:q} 2>&1"


rule splits:
    input:
        scene_status("reference"),
        source("split", "file"),
    output:
        status=f"{ROOT}/scenes/{{scene}}/splits.status.json",
    params:
        scene=lambda wildcards: STUDY.results.scene(wildcards.scene).root.as_posix(),
        spec=scene_spec("splits"),
    log:
        f"{ROOT}/scenes/{{scene}}/logs/splits.log",
    benchmark:
        f"{ROOT}/scenes/{{scene}}/logs/splits.tsv"
    conda:
        ENV
    resources:
        cpus=1,
        mem_mb=500,
    shell:
        "fieldbook splits {params.scene:q} --spec {params.spec:q} > {log:q} 2>&1"


rule scene_frame:
    input:
        scene_status("reference"),
    output:
        status=f"{ROOT}/scenes/{{scene}}/scene_frame.status.json",
    params:
        scene=lambda wildcards: STUDY.results.scene(wildcards.scene).root.as_posix(),
        spec=scene_spec("scene_frame"),
    log:
        f"{ROOT}/scenes/{{scene}}/logs/scene_frame.log",
    benchmark:
        f"{ROOT}/scenes/{{scene}}/logs/scene_frame.tsv"
    conda:
        ENV
    resources:
        cpus=1,
        mem_mb=1500,
    shell:
        "fieldbook scene-frame {params.scene:q} --spec {params.spec:q} > {log:q} 2>&1"


rule mask:
    input:
        scene_status("scene_frame"),
        lambda wildcards: source("masks", wildcards.mask, "path")(wildcards),
    output:
        status=f"{ROOT}/scenes/{{scene}}/mask-{{mask}}.status.json",
    params:
        scene=lambda wildcards: STUDY.results.scene(wildcards.scene).root.as_posix(),
        spec=lambda wildcards: spec({"mask": SCENES[wildcards.scene]["masks"][wildcards.mask]}),
    log:
        f"{ROOT}/scenes/{{scene}}/logs/mask-{{mask}}.log",
    benchmark:
        f"{ROOT}/scenes/{{scene}}/logs/mask-{{mask}}.tsv"
    conda:
        ENV
    resources:
        cpus=1,
        mem_mb=2500,
    shell:
        "fieldbook mask {params.scene:q} {wildcards.mask:q} --spec {params.spec:q} > {log:q} 2>&1"


rule scaled_mask:
    input:
        lambda wildcards: scene_status(f"mask-{wildcards.mask}")(wildcards),
    output:
        status=f"{ROOT}/scenes/{{scene}}/scaled-{{mask}}-{LONG_SIDE}.status.json",
    params:
        scene=lambda wildcards: STUDY.results.scene(wildcards.scene).root.as_posix(),
        long_side=LONG_SIDE,
    log:
        f"{ROOT}/scenes/{{scene}}/logs/scaled-{{mask}}-{LONG_SIDE}.log",
    benchmark:
        f"{ROOT}/scenes/{{scene}}/logs/scaled-{{mask}}-{LONG_SIDE}.tsv"
    conda:
        ENV
    resources:
        cpus=1,
        mem_mb=1000,
    shell:
        "fieldbook scaled-mask {params.scene:q} {wildcards.mask:q} --long-side {params.long_side} > {log:q} 2>&1"


rule images:
    input:
        scene_status("reference"),
    output:
        status=f"{ROOT}/scenes/{{scene}}/images-{LONG_SIDE}.status.json",
    params:
        scene=lambda wildcards: STUDY.results.scene(wildcards.scene).root.as_posix(),
        long_side=LONG_SIDE,
    log:
        f"{ROOT}/scenes/{{scene}}/logs/images-{LONG_SIDE}.log",
    benchmark:
        f"{ROOT}/scenes/{{scene}}/logs/images-{LONG_SIDE}.tsv"
    conda:
        ENV
    resources:
        cpus=1,
        mem_mb=1000,
    shell:
        "fieldbook images {params.scene:q} --long-side {params.long_side} > {log:q} 2>&1"


rule poses:
    input:
        poses_inputs,
    output:
        status="{poses}/poses.status.json",
    params:
        scene=lambda wildcards: STUDY.results.scene(POSES[wildcards.poses].scene).root.as_posix(),
        spec=lambda wildcards: spec(stage_spec(SCENES[POSES[wildcards.poses].scene], "poses")),
        options=lambda wildcards: pose_options(POSES[wildcards.poses]),
    log:
        "{poses}/logs/poses.log",
    benchmark:
        "{poses}/logs/poses.tsv"
    conda:
        ENV
    resources:
        cpus=lambda wildcards: mapper_cpus(POSES[wildcards.poses].scene),
        mem_mb=3000,
    shell:
        "fieldbook poses {params.scene:q} {params.options} --spec {params.spec:q} > {log:q} 2>&1"
