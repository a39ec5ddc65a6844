"""Train, render and score one run; the mesh of its surface. Checkpoints and logs are resumable state, so no rule declares them."""


rule method:
    output:
        status=f"{HERE}/methods/{{method}}/method.status.json",
    params:
        folder=lambda wildcards: STUDY.files.method(wildcards.method).as_posix(),
        spec=lambda wildcards: spec(METHODS[wildcards.method]),
    log:
        f"{HERE}/methods/{{method}}/logs/method.log",
    benchmark:
        f"{HERE}/methods/{{method}}/logs/method.tsv"
    conda:
        ENV
    priority: 1  # before the poses: a mistyped override shows at once
    resources:
        cpus=1,
        mem_mb=2000,
    shell:
        "fieldbook method {params.folder:q} --spec {params.spec:q} > {log:q} 2>&1"


rule train:
    input:
        train_inputs,
    output:
        status="{run}/train.status.json",
        checkpoint="{run}/checkpoint.json",
    params:
        spec=lambda wildcards: spec(STUDY.train_spec(RUNS[wildcards.run])),
    log:
        "{run}/logs/train.log",
    benchmark:
        "{run}/logs/train.tsv"
    conda:
        ENV
    threads: TORCH_CPUS
    resources:
        cpus=TORCH_CPUS,
        gpu=GPU,
        mem_mb=6000,
        # Of SLURM: SIGTERM two minutes before the time limit, for a training needs seconds to save and leave; its log is
        # continued when the job comes back. Here, because --set-resources replaces all that a profile sets.
        slurm_extra="--signal=TERM@120 --open-mode=append",
    shell:
        "fieldbook train {wildcards.run:q} --spec {params.spec:q} > {log:q} 2>&1"


rule render:
    input:
        render_inputs,
    output:
        status="{run}/render.status.json",
    params:
        paths=lambda wildcards: path_folders(RUNS[wildcards.run].scene),
        spec=lambda wildcards: spec(STUDY.train_spec(RUNS[wildcards.run])),
    log:
        "{run}/logs/render.log",
    benchmark:
        "{run}/logs/render.tsv"
    conda:
        ENV
    threads: TORCH_CPUS
    resources:
        cpus=TORCH_CPUS,
        gpu=GPU,
        mem_mb=5000,
    shell:
        "fieldbook render {wildcards.run:q} --spec {params.spec:q} --paths {params.paths:q} > {log:q} 2>&1"


rule score:
    input:
        "{run}/render.status.json",
    output:
        status="{run}/score.status.json",
    params:
        paths=lambda wildcards: path_folders(RUNS[wildcards.run].scene),
        spec=spec(STUDY.score_spec()),
    log:
        "{run}/logs/score.log",
    benchmark:
        "{run}/logs/score.tsv"
    conda:
        ENV
    resources:
        cpus=1,
        gpu=SCORE_GPU,
        mem_mb=3000,
    shell:
        "fieldbook score {wildcards.run:q} --spec {params.spec:q} --paths {params.paths:q} > {log:q} 2>&1"


rule mesh:
    input:
        "{run}/train.status.json",
    output:
        status="{run}/mesh.status.json",
    params:
        spec=spec(STUDY.mesh_spec()),
    log:
        "{run}/logs/mesh.log",
    benchmark:
        "{run}/logs/mesh.tsv"
    conda:
        ENV
    threads: TORCH_CPUS
    resources:
        cpus=TORCH_CPUS,
        gpu=GPU,
        mem_mb=5000,
    shell:
        "fieldbook mesh {wildcards.run:q} --spec {params.spec:q} > {log:q} 2>&1"


rule geometry:
    input:
        geometry_inputs,
    output:
        status="{run}/geometry.status.json",
    params:
        spec=lambda wildcards: spec(STUDY.geometry_spec(RUNS[wildcards.run])),
    log:
        "{run}/logs/geometry.log",
    benchmark:
        "{run}/logs/geometry.tsv"
    conda:
        ENV
    resources:
        cpus=1,
        mem_mb=3000,
    shell:
        "fieldbook geometry {wildcards.run:q} --spec {params.spec:q} > {log:q} 2>&1"
