"""Snakemake's jobs as Kubernetes jobs, on a volume that all pods share; profiles/kubernetes calls this.

Snakemake's own Kubernetes plugin knows no shared volume: it copies the declared files of a job through an object store,
and a training's checkpoints, which are declared by no rule so that it can go on from them, would be lost with its pod.
Never tried on a cluster; docs/cluster.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional, arg

from fieldbook.errors import UserError

LABEL = "radiance-fieldbook"
GRACE_S = 120  # between SIGTERM and SIGKILL; a training needs seconds to save
# A container's first process passes no signal on by itself, and ignores those it has no handler for.
RUN = 'trap "kill -TERM -1" TERM; sh "$0" & wait $!; wait $!'
CLAIM = "results"


@dataclass(frozen=True)
class Pod:
    """What every job's pod has.

    Attributes:
        image: Container image with the Python that made ``.venv``.
        claim: Name of the volume claim that holds checkout, data and results.
        mount: Where it is mounted, here and in every pod.
    """

    image: str
    claim: str
    mount: str


def manifest(pod: Pod, name: str, properties: dict[str, Any], jobscript: str) -> dict[str, Any]:
    """The Kubernetes object of a job.

    Args:
        pod: What every job's pod has.
        name: The object's.
        properties: Snakemake's, from the head of its jobscript: ``threads`` and ``resources`` count.
        jobscript: Path of the script, on the volume.
    """
    given = properties["resources"]
    resources = {"cpu": str(properties["threads"]), "memory": f"{given['mem_mb']}M"}
    if given.get("gpu"):
        resources["nvidia.com/gpu"] = str(given["gpu"])
    container = {
        "name": "snakemake",
        "image": pod.image,
        "command": ["bash", "-c", RUN, jobscript],
        "workingDir": os.getcwd(),
        "resources": {"requests": resources, "limits": resources},
        "volumeMounts": [{"name": CLAIM, "mountPath": pod.mount}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": {"app": LABEL}},
        "spec": {
            "backoffLimit": 0,  # Snakemake itself tries again
            "activeDeadlineSeconds": 60 * int(given["runtime"]),
            "ttlSecondsAfterFinished": 24 * 3600,
            "template": {
                "metadata": {"labels": {"app": LABEL}},
                "spec": {
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": GRACE_S,
                    "containers": [container],
                    "volumes": [{"name": CLAIM, "persistentVolumeClaim": {"claimName": pod.claim}}],
                },
            },
        },
    }


def read_properties(jobscript: Path) -> dict[str, Any]:
    """What Snakemake writes about a job at the head of its script."""
    mark = "# properties = "
    line = next(line for line in jobscript.read_text(encoding="utf-8").splitlines() if line.startswith(mark))
    return json.loads(line.removeprefix(mark))


def submit(
    jobscript: Positional[Path],
    image: Annotated[str, arg(help="Container image.")],
    volume: Annotated[str, arg(help="CLAIM:PATH, the shared volume and where it is mounted.")],
) -> None:
    """Create a job, and print its name."""
    claim, colon, mount = volume.partition(":")
    if not (claim and colon and mount.startswith("/")):
        raise UserError(f"--volume takes CLAIM:/PATH, not {volume!r}")
    if not jobscript.resolve().is_relative_to(mount):
        raise UserError(
            f"{jobscript.resolve()} is not below {mount}: start snakemake from a folder on the shared volume"
        )
    name = f"fieldbook-{uuid.uuid4().hex}"
    made = manifest(Pod(image, claim, mount), name, read_properties(jobscript), str(jobscript.resolve()))
    done = subprocess.run(["kubectl", "create", "-f", "-"], input=json.dumps(made), text=True, stdout=sys.stderr)
    if done.returncode:
        raise UserError("kubectl could not create the job; its message is above")
    print(name)


def status(name: Positional[str]) -> None:
    """Print ``running``, ``success`` or ``failed``."""
    query = "jsonpath={.status.succeeded}/{.status.failed}"
    done = subprocess.run(["kubectl", "get", "job", name, "-o", query], capture_output=True, text=True)
    if done.returncode:
        # Deleted is failed; a cluster that does not answer is asked again.
        print("failed" if "NotFound" in done.stderr else "running")
        return
    succeeded, _, failed = done.stdout.strip().partition("/")
    print("success" if succeeded else "failed" if failed else "running")


def main(argv: list[str]) -> int:
    """Run a command; returns the exit code."""
    try:
        tyro.extras.subcommand_cli_from_dict({"submit": submit, "status": status}, args=argv)
    except UserError as error:
        print(f"fieldbook: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
