"""A real Slurm cluster of one node for tests: it lives in one directory and leaves no process
behind.

`cluster(directory)` runs munged, slurmctld and slurmd as this user, beside any Slurm that may
already run: ports, sockets, key, logs and state are its own. They are children of a keeper
(slurm_keeper.py) that ends them with the `with` block, or with the process that opened it. No
systemd, cgroups, database or root needed.
"""

import dataclasses
import getpass
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import slurm_keeper
from slurm_keeper import NODE, START_SECONDS, becomes_true

PROGRAMS = (
    "munged",
    "slurmctld",
    "slurmd",
    "sbatch",
    "srun",
    "scontrol",
    "squeue",
    "sinfo",
    "scancel",
)
INSTALL = "apt-get install slurmctld slurmd slurm-client munge"
LONGEST_DIRECTORY = 70  # sockets lie in it, and the path of a Unix socket ends at 107 bytes
STOP_SECONDS = 300.0

# What is not plain: cred_expire is also how long a requeued job waits, 120 s unless set (below 5 is
# ignored); without RealMemory every --mem is refused; MinJobAge keeps ended jobs visible to squeue,
# as there is no accounting; task/affinity binds tasks to their CPUs without cgroups.
SLURM_CONF = """\
ClusterName=earlyprune
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={controller_port}
SlurmdPort={node_port}
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd.log
PlugStackConfig={directory}/plugstack.conf
MailProg=/bin/true
MpiDefault=none
SwitchType=switch/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
JobRequeue=1
ReturnToService=2
KillWait=2
MinJobAge=3600
NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 CPUs={num_cpus} \\
    RealMemory={memory_mib} State=UNKNOWN
PartitionName=all Nodes={node} Default=YES MaxTime=INFINITE State=UP
"""


class SlurmMissing(RuntimeError):
    """Programs of Slurm or munge are not installed here; the message says how to get them."""


class SlurmFailed(RuntimeError):
    """The cluster did not start; the message ends with its logs."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A running cluster.

    Attributes:
        directory: Everything of it; `*.log` for the curious.
        environment: What programs that submit to it must see: SLURM_CONF, PATH, no outer Slurm's
            variables.
        keeper_pid: The process that all of its processes descend from.
    """

    directory: Path
    environment: Mapping[str, str]
    keeper_pid: int

    def run(self, *command: str) -> str:
        """What a Slurm command prints; CalledProcessError if it fails."""
        return subprocess.run(
            command,
            env=self.environment,
            check=True,
            text=True,
            stdout=subprocess.PIPE,
            timeout=300,
        ).stdout

    def states(self, job_id: str) -> dict[str, str]:
        """The state of a job, or of each task of an array that has its own: "7_0" -> "RUNNING"."""
        lines = self.run("squeue", "-h", "-t", "all", "-j", job_id, "-o", "%i %T").splitlines()
        return {line.split()[0]: line.split()[1] for line in lines}


@contextmanager
def cluster(directory: Path) -> Iterator[Cluster]:
    """Runs a Slurm cluster of this machine's CPUs while the block runs.

    Args:
        directory: Made here; must not have served a cluster before, for job numbers start at 1
            again.

    Yields:
        The cluster, its node idle.

    Raises:
        SlurmMissing: A program is not installed.
        SlurmFailed: A daemon stopped, or the node was not idle within a minute.
        ValueError: The directory's path is too long for the sockets in it.
    """
    _require_room(directory)
    environment = _environment(directory)
    missing = [name for name in PROGRAMS if shutil.which(name, path=environment["PATH"]) is None]
    if missing:
        raise SlurmMissing(f"Not installed: {', '.join(missing)}. On Debian: {INSTALL}")
    _write_settings(directory, environment)
    with (directory / "keeper.log").open("wb") as log:
        keeper = subprocess.Popen(
            [sys.executable, slurm_keeper.__file__, directory],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the tests
        )
    running = Cluster(directory, environment, keeper.pid)
    try:
        _wait_until_idle(running, keeper)
        yield running
    finally:
        keeper.terminate()
        keeper.communicate(timeout=STOP_SECONDS)


def _environment(directory: Path) -> dict[str, str]:
    inherited = {
        name: text for name, text in os.environ.items() if not re.match("SLURM|SBATCH|SRUN", name)
    }
    # The daemons lie where a user's PATH does not lead.
    path = f"{inherited.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    return inherited | {"PATH": path, "SLURM_CONF": f"{directory}/slurm.conf"}


def _require_room(directory: Path) -> None:
    if len(os.fsencode(directory)) > LONGEST_DIRECTORY or not directory.is_absolute():
        raise ValueError(
            f"Expected directory={str(directory)!r} absolute and of at most "
            f"{LONGEST_DIRECTORY} characters. "
            "Give pytest a shorter --basetemp."
        )


def _write_settings(directory: Path, environment: Mapping[str, str]) -> None:
    for name in ("state", "spool"):
        (directory / name).mkdir(parents=True)
    controller_port, node_port = _free_ports(2)
    settings = SLURM_CONF.format(
        directory=directory,
        host=socket.gethostname().split(".")[0],
        user=getpass.getuser(),
        node=NODE,
        num_cpus=os.cpu_count(),
        memory_mib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        controller_port=controller_port,
        node_port=node_port,
    )
    (directory / "slurm.conf").write_text(settings)
    (directory / "plugstack.conf").touch()  # without one Slurm reads the machine's
    (directory / "cgroup.conf").write_text(_cgroup_conf(environment))
    key = directory / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))


def _cgroup_conf(environment: Mapping[str, str]) -> str:
    """Newer releases look for cgroups even where no plugin uses them; older ones do not know the
    word."""
    text = subprocess.run(
        ["slurmd", "-V"], env=environment, check=True, text=True, stdout=subprocess.PIPE
    ).stdout
    version = re.search(r"(\d+)\.(\d+)", text)
    assert version is not None, text
    return "CgroupPlugin=disabled\n" if (int(version[1]), int(version[2])) >= (23, 11) else ""


def _free_ports(num: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(num)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait_until_idle(running: Cluster, keeper: subprocess.Popen[bytes]) -> None:
    def idle() -> bool:
        if keeper.poll() is not None:
            raise SlurmFailed(f"Slurm's daemons stopped.\n{_logs(running.directory)}")
        if not (running.directory / slurm_keeper.STARTED).exists():
            return False
        answer = subprocess.run(
            ["sinfo", "-h", "-o", "%T"],
            env=running.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        return answer.stdout.strip() == "idle"

    if not becomes_true(idle, START_SECONDS):
        raise SlurmFailed(
            f"The node was not idle within {START_SECONDS:.0f} s.\n{_logs(running.directory)}"
        )


def _logs(directory: Path) -> str:
    tails = (
        f"--- {path.name}\n{path.read_text()[-2000:]}" for path in sorted(directory.glob("*.log"))
    )
    return "\n".join(tails)
