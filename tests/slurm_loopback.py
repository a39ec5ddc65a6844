"""A SLURM cluster of one node in namespaces of its own: nothing of it is seen outside, nothing outlives its test.

Its network is a loopback of its own, so no port can be taken; its ``/etc/slurm`` is a folder of the test's, because the
job steps of Snakemake's plugin do not pass ``SLURM_CONF`` on; and its processes die with the first of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

CONF = """\
ClusterName=loopback
SlurmctldHost=localhost
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.sock,cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=localhost CPUs={cpus} RealMemory=64000 Gres=gpu:{gpus}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
GRES = "NodeName=localhost Name=gpu File={root}/gpu[0-{last}]\n"
# The second address: where a machine has none but 127.0.0.1, SLURM's way of asking finds no host at all.
SETUP = """set -e
mount --bind "$1" /etc/slurm
hostname localhost
ip link set lo up
ip address add 192.0.2.1/32 dev lo
echo ready
exec sleep infinity
"""
NAMESPACES = ("--mount", "--net", "--pid", "--uts")
DAEMONS = ("munged", "slurmctld", "slurmd")


def why_not() -> str | None:
    """Why no cluster can be started here; None where one can."""
    if os.geteuid() != 0:
        return "SLURM's daemons and their namespaces need root"
    missing = [name for name in (*DAEMONS, "srun", "setpriv", "unshare", "nsenter", "ip") if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: slurm-wlm, munge, util-linux, iproute2)"
    if not Path("/etc/slurm").is_dir():
        return "there is no folder /etc/slurm to lay ours over"
    done = subprocess.run(["unshare", *NAMESPACES, "--fork", "true"], capture_output=True, text=True)
    return f"namespaces are not permitted: {done.stderr.strip()}" if done.returncode else None


class Loopback:
    """The cluster; use it in a ``with``.

    Args:
        root: A folder for its files, on this machine's disk.
        cpus: That SLURM believes the node has.
        gpus: The same: devices that do nothing, which SLURM hands out by number.
    """

    def __init__(self, root: Path, cpus: int = 8, gpus: int = 2):
        self.root = root
        for name in ("etc", "state", "spool"):
            (root / name).mkdir(parents=True)
        (root / "etc/slurm.conf").write_text(CONF.format(root=root, cpus=cpus, gpus=gpus))
        (root / "etc/gres.conf").write_text(GRES.format(root=root, last=gpus - 1))
        (root / "etc/cgroup.conf").write_text("CgroupAutomount=no\n")
        (root / "munge.key").write_bytes(os.urandom(128))
        (root / "munge.key").chmod(0o600)
        root.chmod(0o755)  # munge refuses a socket that not everybody could reach
        for number in range(gpus):
            os.mknod(root / f"gpu{number}", 0o20666, os.makedev(1, 3))

    def __enter__(self) -> Loopback:
        # Killed with the test's process, and with it everything inside.
        command = ["setpriv", "--pdeathsig=KILL", "unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc"]
        setup = ["bash", "-c", SETUP, "setup", str(self.root / "etc")]
        self._init = subprocess.Popen([*command, *setup], stdout=subprocess.PIPE, text=True)
        assert self._init.stdout is not None
        assert self._init.stdout.readline() == "ready\n"
        pid = self._init.pid
        self._inside = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
        try:
            self.run("munged", "--force", *(f"--{name}={self.root}/munge.{end}" for name, end in MUNGE_FILES.items()))
            self.run("slurmctld")
            self.run("slurmd")
            self.wait(lambda: "idle" in self.run("sinfo", "--noheader", "--format=%T"))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._init.kill()
        self._init.wait()
        assert self._init.stdout is not None
        self._init.stdout.close()

    def inside(self, *command: str) -> list[str]:
        """A command line that runs another inside the cluster's namespaces."""
        return ["nsenter", f"--target={self._inside}", *NAMESPACES, f"--wd={os.getcwd()}", *command]

    def run(self, *command: str) -> str:
        """Run a command inside; its output."""
        done = subprocess.run(self.inside(*command), capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def stop_controller(self) -> None:
        """End slurmctld, which keeps what it knows for the next one."""
        path = self.root / "slurmctld.pid"
        self.run("kill", path.read_text().strip())
        self.wait(lambda: not path.exists())

    def queue(self) -> dict[str, tuple[str, str]]:
        """State and comment, which names the rule and its wildcards, of every job that SLURM still knows."""
        lines = self.run("squeue", "--noheader", "--states=all", "--format=%i|%T|%k").splitlines()
        return {job: (state, comment) for job, state, comment in (line.split("|", 2) for line in lines)}

    def restarts(self, job: str) -> int:
        """How often SLURM has put a job back into its queue."""
        fields = self.run("scontrol", "show", "job", job).split()
        return next(int(field.removeprefix("Restarts=")) for field in fields if field.startswith("Restarts="))

    @staticmethod
    def wait(condition, seconds: float = 60) -> None:
        """Wait until a condition holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.2)


MUNGE_FILES = {"key-file": "key", "socket": "sock", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
