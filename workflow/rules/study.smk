"""Tables, report and tracking of the study."""


rule tables:
    input:
        all_scores,
        all_geometries,
    output:
        study=STUDY.files.resolved.as_posix(),
        images=report(
            STUDY.files.images_csv.as_posix(), caption="../report/images.rst", category="Tables"
        ),
        runs=report(STUDY.files.runs_csv.as_posix(), caption="../report/runs.rst", category="Tables"),
        cells=report(STUDY.files.cells_csv.as_posix(), caption="../report/cells.rst", category="Tables"),
    params:
        folder=lambda wildcards, output: Path(output.study).parent.as_posix(),
        config=lambda wildcards: spec(STUDY.config),  # a string would have its braces filled in
    log:
        f"{HERE}/logs/tables.log",
    benchmark:
        f"{HERE}/logs/tables.tsv"
    conda:
        ENV
    resources:
        cpus=1,
        mem_mb=1000,
    shell:
        "fieldbook tables {params.folder:q} --config {params.config:q} > {log:q} 2>&1"


rule report:
    input:
        rules.tables.output,
    output:
        report=report(STUDY.files.report.as_posix(), caption="../report/report.rst", category="Report"),
    params:
        folder=lambda wildcards, output: Path(output.report).parent.as_posix(),
    log:
        f"{HERE}/logs/report.log",
    benchmark:
        f"{HERE}/logs/report.tsv"
    conda:
        ENV
    resources:
        cpus=1,
        mem_mb=2000,
    shell:
        "fieldbook report {params.folder:q} > {log:q} 2>&1"


rule sync:
    input:
        rules.tables.output,
    output:
        status=STUDY.files.sync.as_posix(),
    params:
        folder=lambda wildcards, output: Path(output.status).parent.as_posix(),
        # Another store is logged to anew.
        store=store_hash(),
    log:
        f"{HERE}/logs/sync.log",
    benchmark:
        f"{HERE}/logs/sync.tsv"
    conda:
        ENV
    resources:
        cpus=1,
        mem_mb=1500,
    # A cluster's nodes may not reach the store; and SQLite's write-ahead log is for one host.
    localrule: True
    shell:
        "fieldbook sync {params.folder:q} --never-fail > {log:q} 2>&1"


onsuccess:
    say_if_queued()
