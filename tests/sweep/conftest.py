"""A Slurm of one node on this machine: munged, slurmctld and slurmd with a configuration and folder of their own."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.waiting import wait

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
# Requeued jobs start again within seconds, where Slurm's own settings wait for two minutes.
CONFIGURATION = """
ClusterName=loopback
SlurmctldHost=localhost
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=slurm
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
KillWait=30
MpiDefault=none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
StateSaveLocation={folder}/controller
SlurmdSpoolDir={folder}/node
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName=localhost CPUs={cpus} State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES PriorityTier=1
PartitionName=urgent Nodes=ALL PriorityTier=10
"""


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """The environment variables that Slurm's commands need."""
    if reason := _lacking():
        pytest.skip(reason)
    # Not below pytest's own folder, which root alone may enter: munged and slurmctld have users of their own.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, _cluster(Path(folder)) as environment:
        yield environment


def _lacking() -> str:
    """Why no Slurm can be started here; empty where one can."""
    absent = [name for name in PROGRAMS if _program(name) is None]
    if absent:
        return f"{', '.join(absent)}: not installed (Debian: slurmctld slurmd slurm-client munge)"
    if os.geteuid() != 0:
        return "starting slurmctld and slurmd takes root"
    return ""


@contextmanager
def _cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Slurm in the block; yields the environment variables that its commands need. The programs end with the block."""
    for name, user in (("munge", "munge"), ("controller", "slurm"), ("node", "root")):
        (folder / name).mkdir(parents=True, mode=0o755)
        shutil.chown(folder / name, user)
    folder.chmod(0o755)
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    shutil.chown(key, "munge")
    configuration = folder / "slurm.conf"
    # The node has the cores that it says it has, so that two workers and a step of two processes have room.
    cpus = max(2, os.cpu_count() or 1)
    configuration.write_text(
        CONFIGURATION.format(folder=folder, cpus=cpus, controller_port=_free_port(), node_port=_free_port())
    )
    environment = {"SLURM_CONF": str(configuration)}
    munge = folder / "munge"
    paths = {"key-file": key, "socket": munge / "socket", "pid-file": munge / "pid", "log-file": munge / "log"}
    with ExitStack() as stack:
        options = [f"--{name}={path}" for name, path in {**paths, "seed-file": munge / "seed"}.items()]
        _start(stack, folder, environment, ["munged", "--foreground", *options], user="munge")
        wait(lambda: (munge / "socket").exists(), "munged", 30)
        _start(stack, folder, environment, ["slurmctld", "-D"])
        _start(stack, folder, environment, ["slurmd", "-D", "-N", "localhost"])
        wait(lambda: _idle(environment), "slurmd", 30)
        yield environment
        subprocess.run(["scancel", "--user=root"], env=os.environ | environment, capture_output=True, timeout=30)
        wait(lambda: not _jobs(environment), "scancel", 30)


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(
    stack: ExitStack, folder: Path, environment: dict[str, str], command: list[str], user: str | None = None
) -> None:
    program = _program(command[0])
    assert program is not None
    log = stack.enter_context((folder / f"{command[0]}.out").open("w"))
    account = pwd.getpwnam(user) if user else None
    process = subprocess.Popen(
        [program, *command[1:]],
        env=os.environ | environment,
        stdout=log,
        stderr=log,
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
    )
    stack.callback(process.wait, 30)
    stack.callback(process.terminate)


def _idle(environment: dict[str, str]) -> bool:
    done = subprocess.run(["sinfo", "-h", "-o", "%T"], env=os.environ | environment, capture_output=True, text=True)
    return set(done.stdout.split()) == {"idle"}


def _jobs(environment: dict[str, str]) -> str:
    return subprocess.run(["squeue", "-h"], env=os.environ | environment, capture_output=True, text=True).stdout
