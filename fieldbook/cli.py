"""The command line: one sub-command per stage. Each rule of the workflow calls exactly these commands.

Every command imports what it needs when it runs, so ``fieldbook --help`` needs neither torch nor nerfstudio.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import sys
import traceback
import warnings

import tyro

from fieldbook import child
from fieldbook.commands import run, sample, scene, score, study, surface
from fieldbook.errors import FieldbookError
from fieldbook.status import Status

NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
COMMANDS = {
    f.__name__.replace("_", "-"): f
    for f in (
        study.plan, run.method, scene.capture, scene.frames, scene.reference, scene.splits, scene.scene_frame,
        scene.mask, scene.images, scene.scaled_mask, scene.poses, scene.dataset, scene.path, run.train, run.render,
        score.score, surface.mesh, surface.geometry, study.tables, study.report, study.sync, study.doctor,
        sample.sample,
    )
}  # fmt: skip
WATCHED = {"train", "render", "mesh", "reference", "poses"}
"""Stages that may need more memory than there is; each imports what it needs of it in its work only."""


def main(argv: list[str]) -> int:
    """Run one command; returns the exit code: 0 done (infeasible is done), 2 a mistake of the user."""
    # Two jobs on shared cores would spin in OpenMP's barriers instead of working: measured, seven times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # nerfstudio's own, about torch names that it imports; they would stand before every one-line message.
    warnings.filterwarnings("ignore", category=FutureWarning, module="nerfstudio")
    debug = "--debug" in argv
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        status = tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="fieldbook",
            description="Reproducible experiments for radiance fields. --debug shows tracebacks.",
            args=[a for a in argv if a != "--debug"],
        )
    except FieldbookError as error:
        if debug:
            traceback.print_exc()
        print(f"fieldbook: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if debug or (error.filename is None and error.errno not in NO_SPACE):
            raise
        where = f": {error.filename}" if error.filename is not None else ""
        print(f"fieldbook: {error.strerror}{where}; what is finished is kept", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fieldbook: stopped", file=sys.stderr)
        return 130
    if isinstance(status, Status) and not status.ok:
        print(f"infeasible ({status.stage}): {status.reason}", file=sys.stderr)
    return 0


def entrypoint() -> None:
    """The ``fieldbook`` console script; what needs much memory runs in a child, which may be killed for want of it."""
    gc.set_threshold(10_000)  # importing torch makes objects that stay; a sixth of it is looking for ones that do not
    argv = sys.argv[1:]
    command = next((word for word in argv if word != "--debug"), "")
    if command in WATCHED and not {"-h", "--help"} & set(argv):
        code = child.fork_and_watch()
        if code is not None:
            sys.exit(code)
    sys.exit(main(argv))
