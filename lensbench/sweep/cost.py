"""What a cell costs: device-hours, energy and, at a given rate, dollars, summed over all attempts at it.

A process that runs a cell appends a line to a file in the cell's directory, now and then and at its end: what a killed
one has done since its last line, at most `BEAT` seconds, is not counted. A device is a GPU or, without one, a core.
Time counts from the start of a cell to its end; waiting in a queue and loading libraries do not.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RATE = "LENSBENCH_USD_PER_HOUR"  # dollars for an hour of a device
BEAT = 30.0  # seconds between two lines
FILES = "cost*.jsonl"  # of the first process cost.jsonl; the others have files of their own; `clear` keeps them
# The only watts that are nobody's measurement: what Green Algorithms (Lannelongue et al. 2021,
# doi:10.1002/advs.202100707) takes for a processor's core and for a GPU that it does not know.
WATTS = {"core": 12.0, "GPU": 200.0}
POWERCAP = Path("/sys/class/powercap")
STAT = Path("/proc/stat")
JOULES = 3.6e6  # in a kWh


@dataclass(frozen=True)
class Meter:
    """Where the energy comes from; `joules(seconds)` is what has been used since the meter was opened."""

    name: str
    measured: bool
    joules: Callable[[float], float]


@dataclass(frozen=True)
class Cost:
    """The cost of one cell or of several."""

    hours: dict[str, float]  # kind of device (GPU, core) -> device-hours
    kwh: float
    measured: bool  # all of the energy by a meter
    meters: frozenset[str]

    @property
    def device_hours(self) -> float:
        """Hours of all devices together."""
        return sum(self.hours.values())

    def records(self, rate: float | None) -> list[tuple[str, float, str]]:
        """(metric, value, what it comes from) for a cell's records; dollars only where a rate is given.

        The energy is named `energy_kwh` where a meter gave all of it, else `energy_kwh_estimated`.
        """
        energy = "energy_kwh" if self.measured else "energy_kwh_estimated"
        found = [("device_hours", self.device_hours, ", ".join(sorted(self.hours)))]
        if rate is not None:
            found.append(("cost_usd", self.device_hours * rate, f"{rate:g} dollars a device-hour"))
        return [*found, (energy, self.kwh, "; ".join(sorted(self.meters)))]


def rate_given() -> float | None:
    """Dollars for an hour of a device, from the environment; None where nobody gave a rate."""
    given = os.environ.get(RATE, "").strip()
    if not given:
        return None
    try:
        rate = float(given)
    except ValueError:
        rate = -1.0
    if not 0 <= rate < float("inf"):
        raise ValueError(f"{RATE}={given}: give the dollars for an hour of a GPU (or of a core), such as 2.5")
    return rate


class Counter:
    """The lines of one attempt by one process."""

    def __init__(self, path: Path, unit: str, devices: int, meter: Meter) -> None:
        self.path, self.meter = path, meter
        self.said = {"attempt": f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}", "unit": unit}
        self.said |= {"meter": meter.name}
        self.devices, self.began = devices, time.monotonic()
        self.lock, self.joules = threading.Lock(), 0.0
        self._append("\n")  # ends what a killed process may have left of a line
        self.note()

    def note(self) -> None:
        """Append what has been used until now."""
        with self.lock:
            seconds = time.monotonic() - self.began
            with suppress(Exception):  # a meter that fails keeps what it has said: no cell ends for its cost
                self.joules = self.meter.joules(seconds)
            used = {"device_seconds": seconds * self.devices, "joules": self.joules}
            self._append(json.dumps(self.said | {"measured": self.meter.measured} | used) + "\n")

    def _append(self, text: str) -> None:
        with suppress(OSError), self.path.open("a") as file:  # a full disk is the cell's own affair
            file.write(text)


@contextmanager
def counting(directory: Path, rank: int = 0) -> Iterator[Counter]:
    """Count the block's time and energy as an attempt at the cell of `directory`, by process `rank` of it."""
    unit, devices = _devices()
    directory.mkdir(parents=True, exist_ok=True)
    name = f"cost-{rank}.jsonl" if rank else "cost.jsonl"
    counter = Counter(directory / name, unit, devices, open_meter(unit, devices))
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT):
            counter.note()

    thread = threading.Thread(target=beat, name="cost", daemon=True)
    thread.start()
    try:
        yield counter
    finally:
        ended.set()
        thread.join(timeout=BEAT)
        counter.note()


def spent(directories: Iterable[Path]) -> Cost | None:
    """What all attempts at these cells cost; None where nothing was counted."""
    last: dict[str, dict[str, Any]] = {}
    for path in (path for directory in directories for path in sorted(directory.glob(FILES))):
        for line in path.read_text(errors="replace").split("\n"):
            with suppress(ValueError, KeyError, TypeError):  # half a line of a killed process
                said = json.loads(line)
                last[f"{path}{said['attempt']}"] = said
    if not last:
        return None
    hours: dict[str, float] = {}
    for said in last.values():
        hours[said["unit"]] = hours.get(said["unit"], 0.0) + said["device_seconds"] / 3600
    joules = sum(said["joules"] for said in last.values())
    measured = all(said["measured"] for said in last.values())
    return Cost(hours, joules / JOULES, measured, frozenset(said["meter"] for said in last.values()))


def in_words(cost: Cost, rate: float | None) -> str:
    """A cost for people, in one line: `3.2 GPU-hours, $8.00, 1.9 kWh (NVML, the GPU alone)`."""
    hours = " and ".join(f"{_number(hours)} {unit}-hours" for unit, hours in sorted(cost.hours.items()))
    dollars = "" if rate is None else f", {_dollars(cost.device_hours * rate)} at ${rate:g} an hour"
    source = "; ".join(sorted(cost.meters))
    return f"{hours}{dollars}, {_number(cost.kwh)} kWh ({source})"


def open_meter(unit: str, devices: int, powercap: Path = POWERCAP, stat: Path = STAT) -> Meter:
    """The best meter that there is here: NVML for a GPU, RAPL for a processor, else an estimate that says so."""
    if unit == "GPU":
        return _nvml() or _estimate(unit, devices)
    return _rapl(powercap, stat) or _estimate(unit, devices)


def _devices() -> tuple[str, int]:
    import torch

    return ("GPU", 1) if torch.cuda.is_available() else ("core", torch.get_num_threads())


def _estimate(unit: str, devices: int, watts: float | None = None, source: str = "Green Algorithms") -> Meter:
    each = WATTS[unit] if watts is None else watts
    name = f"estimated: {each:g} W a {unit}, {source}"
    return Meter(name, False, lambda seconds: each * devices * seconds)


def _nvml() -> Meter | None:
    """The GPU of this process by NVIDIA's own counter, or by its power limit where it counts no energy."""
    import torch

    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        try:
            first = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)  # mJ since the driver was loaded
        except pynvml.NVMLError:  # before Volta
            watts = pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000
            return _estimate("GPU", 1, watts, "its power limit")
    except pynvml.NVMLError:  # part of a GPU, or no driver library
        return None

    def joules(seconds: float) -> float:
        return (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - first) / 1000

    return Meter("NVML, the GPU alone", True, joules)


def _rapl(powercap: Path, stat: Path) -> Meter | None:
    """The processors' own counters, of which this process has the share of the time that they were busy."""
    zones = [zone for zone in sorted(powercap.glob("intel-rapl:*")) if _name(zone).startswith(("package", "dram"))]
    try:
        before = {zone: _microjoules(zone) for zone in zones}
        own, busy = _own_seconds(), _busy_seconds(stat)
    except (OSError, ValueError):  # root alone may read them
        return None
    if not zones:
        return None
    total = 0.0

    def joules(seconds: float) -> float:
        nonlocal total, own, busy
        used = 0.0
        for zone in zones:
            now = _microjoules(zone)
            span = now - before[zone]
            before[zone] = now
            used += (span if span >= 0 else span + int((zone / "max_energy_range_uj").read_text())) / 1e6
        own_now, busy_now = _own_seconds(), _busy_seconds(stat)
        share = min(1.0, (own_now - own) / (busy_now - busy)) if busy_now > busy else 0.0
        own, busy = own_now, busy_now
        total += used * share
        return total

    return Meter("RAPL, by the share of processor time", True, joules)


def _name(zone: Path) -> str:
    try:
        return (zone / "name").read_text().strip()
    except OSError:
        return ""


def _microjoules(zone: Path) -> int:
    return int((zone / "energy_uj").read_text())


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _busy_seconds(stat: Path) -> float:
    # user nice system idle iowait irq softirq steal, of all processors together
    ticks = [int(number) for number in stat.read_text().splitlines()[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _dollars(value: float) -> str:
    return f"${value:,.2f}" if value >= 0.01 or value == 0 else "under $0.01"
