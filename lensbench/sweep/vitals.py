"""A run's signs of life in its spool: when an attempt begins and how it ends, and the machine's numbers in between.

The names of the numbers are those of MLflow's own system metrics, so that its page for them shows them.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lensbench import spool

SECONDS = 10.0  # between two samples
MEGA = 1e6


@contextmanager
def telling(directory: Path) -> Iterator[None]:
    """The block is an attempt at the run in `directory`, which is made; a thread tells that it goes on."""
    directory.mkdir(parents=True, exist_ok=True)
    pid = os.getpid()
    spool.append(directory, [{"begin": {"host": socket.gethostname(), "pid": pid, "started": started(pid)}}])
    over = threading.Event()
    thread = threading.Thread(target=_sample, args=(directory, over), daemon=True)
    thread.start()
    end = "FAILED"
    try:
        yield
        end = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        end = "KILLED"
        raise
    finally:
        over.set()
        spool.append(directory, [{"end": end}])


def started(pid: int) -> str:
    """When a process of this machine started, in the kernel's ticks; empty where it is gone or cannot be known."""
    try:
        # the name, in brackets, may hold anything; a zombie is gone
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state == "Z" else rest[18]


def alive(host: str, pid: int, start: str) -> bool | None:
    """Whether the process of an attempt is still there; None where that cannot be known from here."""
    if host != socket.gethostname() or not start:
        return None
    return started(pid) == start


def _sample(directory: Path, over: threading.Event) -> None:
    number = sum("sample" in line for line in spool.read(directory)[0])
    used, since = _cpu_seconds(), time.monotonic()
    while not over.wait(SECONDS):
        before, at = used, since
        used, since = _cpu_seconds(), time.monotonic()
        numbers = {"process_cpu_percentage": 100 * (used - before) / (since - at)} | _memory() | _gpu()
        line = {"sample": number, "system": {name: round(value, 3) for name, value in numbers.items()}}
        number += spool.append(directory, [line])


def _cpu_seconds() -> float:
    return sum(os.times()[:4])  # user and system, of this process and its children that have ended


def _memory() -> dict[str, float]:
    if sys.platform != "linux":
        return {}
    kilobytes = {}
    for file in ("/proc/self/status", "/proc/meminfo"):
        for line in Path(file).read_text().splitlines():
            name, _, value = line.partition(":")
            if name in ("VmRSS", "MemTotal", "MemAvailable"):
                kilobytes[name] = int(value.split()[0])
    used = 1024 * (kilobytes["MemTotal"] - kilobytes["MemAvailable"])
    return {
        "process_memory_usage_megabytes": 1024 * kilobytes["VmRSS"] / MEGA,
        "system_memory_usage_megabytes": used / MEGA,
        "system_memory_usage_percentage": 100 * used / (1024 * kilobytes["MemTotal"]),
    }


def _gpu() -> dict[str, float]:
    torch = sys.modules.get("torch")  # whoever trains has imported it; a GPU that is not in use is not woken up
    if torch is None or not torch.cuda.is_initialized():
        return {}
    out = {}
    for n in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(n)
        out[f"gpu_{n}_memory_usage_megabytes"] = (total - free) / MEGA
        out[f"gpu_{n}_memory_usage_percentage"] = 100 * (total - free) / total
        try:
            out[f"gpu_{n}_utilization_percentage"] = float(torch.cuda.utilization(n))
        except (ImportError, RuntimeError):  # it takes NVIDIA's management library
            continue
    return out
