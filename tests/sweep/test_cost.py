"""What cells cost: summed over attempts and processes, by meters where there are any, and never a number made up."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.sweep import cost
from lensbench.sweep.cost import Meter, counting, in_words, open_meter, rate_given, spent
from lensbench.sweep.worker import clear


def line(attempt: str, seconds: float, joules: float, unit: str = "GPU", meter: str = "NVML", measured: bool = True):
    said = {"attempt": attempt, "unit": unit, "meter": meter, "measured": measured}
    return json.dumps(said | {"device_seconds": seconds, "joules": joules}) + "\n"


def test_an_attempt_that_was_killed_costs_what_its_last_line_says(tmp_path: Path) -> None:
    whole = line("a", 1800, 1e6) + line("a", 3600, 3.6e6) + line("b", 1800, 1.8e6)
    (tmp_path / "cost.jsonl").write_text(whole + line("c", 10**9, 10**9)[:40] + "\n")  # killed within the line
    (tmp_path / "cost-1.jsonl").write_text(line("a", 3600, 3.6e6))  # another process of the same attempt
    found = spent([tmp_path])
    assert found is not None
    assert found.hours == {"GPU": pytest.approx(2.5)}
    assert found.kwh == pytest.approx(2.5)
    assert found.records(4.0) == [
        ("device_hours", pytest.approx(2.5), "GPU"),
        ("cost_usd", pytest.approx(10.0), "4 dollars a device-hour"),
        ("energy_kwh", pytest.approx(2.5), "NVML"),
    ]
    assert in_words(found, 4.0) == "2.5 GPU-hours, $10.00 at $4 an hour, 2.5 kWh (NVML)"


@given(st.lists(st.lists(st.floats(0, 1e6), min_size=1, max_size=4), min_size=1, max_size=5))
def test_hours_are_the_sum_over_attempts_whatever_was_written_between(attempts: list[list[float]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        text = "".join(line(str(i), s, s) for i, beats in enumerate(attempts) for s in sorted(beats))
        (Path(folder) / "cost.jsonl").write_text(text)
        found = spent([Path(folder)])
    assert found is not None
    assert found.device_hours == pytest.approx(sum(max(beats) for beats in attempts) / 3600)


def test_energy_is_called_measured_only_where_all_of_it_is(tmp_path: Path) -> None:
    text = line("a", 3600, 3.6e6) + line("b", 3600, 3.6e6, "core", "estimated: 12 W a core, Green Algorithms", False)
    (tmp_path / "cost.jsonl").write_text(text)
    found = spent([tmp_path])
    assert found is not None
    metrics = {metric: source for metric, _, source in found.records(None)}
    assert metrics == {
        "device_hours": "GPU, core",
        "energy_kwh_estimated": "NVML; estimated: 12 W a core, Green Algorithms",
    }
    assert in_words(found, None).startswith("1 GPU-hours and 1 core-hours, 2 kWh (NVML; estimated")


def test_dollars_only_at_a_rate_that_somebody_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cost.RATE, raising=False)
    assert rate_given() is None
    monkeypatch.setenv(cost.RATE, "2.5")
    assert rate_given() == 2.5
    for wrong in ("two", "-1", "nan", "inf"):
        monkeypatch.setenv(cost.RATE, wrong)
        with pytest.raises(ValueError, match=f"{cost.RATE}={wrong}: give the dollars"):
            rate_given()


def test_lines_are_written_while_a_cell_runs_and_stay_for_the_next_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "BEAT", 0.02)
    with counting(tmp_path) as counter:
        until = time.monotonic() + 20
        while len((tmp_path / "cost.jsonl").read_text().splitlines()) < 5:
            assert time.monotonic() < until
            time.sleep(0.01)
        counter.note()
    first = spent([tmp_path])
    (tmp_path / "error.txt").write_text("failed")
    clear(tmp_path)
    assert not (tmp_path / "error.txt").exists()
    with counting(tmp_path), counting(tmp_path, rank=1):
        pass
    second = spent([tmp_path])
    assert first is not None
    assert second is not None
    assert second.device_hours > first.device_hours
    assert spent([tmp_path / "never run"]) is None


def test_a_meter_that_fails_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([5.0])
    monkeypatch.setattr(cost, "open_meter", lambda unit, devices: Meter("m", True, lambda seconds: next(values)))
    with counting(tmp_path):
        pass
    found = spent([tmp_path])
    assert found is not None
    assert found.kwh == pytest.approx(5 / 3.6e6)


def test_without_a_meter_the_energy_is_an_estimate_that_names_its_source(tmp_path: Path) -> None:
    meter = open_meter("core", 2, powercap=tmp_path)
    assert not meter.measured
    assert meter.name == "estimated: 12 W a core, Green Algorithms"
    assert meter.joules(10.0) == 240.0


def rapl(folder: Path, microjoules: int) -> None:
    for name, text in (("name", "package-0"), ("energy_uj", str(microjoules)), ("max_energy_range_uj", "1000000000")):
        (folder / "intel-rapl:0").mkdir(exist_ok=True)
        (folder / "intel-rapl:0" / name).write_text(text + "\n")


def test_a_processor_s_counters_are_shared_by_busy_time_and_may_wrap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = 0.0
    monkeypatch.setattr(cost, "_own_seconds", lambda: own)
    monkeypatch.setattr(cost, "_busy_seconds", lambda stat: 4 * own)  # a quarter of what the machine does is this
    rapl(tmp_path, 900_000_000)
    meter = open_meter("core", 1, powercap=tmp_path)
    assert meter.measured
    own, _ = 1.0, rapl(tmp_path, 940_000_000)
    assert meter.joules(0) == pytest.approx(10)
    own, _ = 2.0, rapl(tmp_path, 20_000_000)  # past the end of its range: 80 J more
    assert meter.joules(0) == pytest.approx(30)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert not open_meter("core", 1, powercap=tmp_path).measured


def test_busy_time_is_all_but_idle_and_waiting(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("cpu  100 20 30 5000 700 1 2 3 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    import os

    assert cost._busy_seconds(tmp_path / "stat") == pytest.approx(156 / os.sysconf("SC_CLK_TCK"))


class FakeNvmlError(Exception):
    pass


@pytest.mark.parametrize(
    ("counts", "name"), [(True, "NVML, the GPU alone"), (False, "estimated: 350 W a GPU, its power limit")]
)
def test_a_gpu_is_read_by_nvml_or_by_its_power_limit(counts: bool, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    millijoules = iter([5000, 5000, 12000])

    def energy(handle: str) -> int:
        assert handle == "GPU-abc"
        if not counts:
            raise FakeNvmlError
        return next(millijoules)

    fake = SimpleNamespace(
        NVMLError=FakeNvmlError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=energy,
        nvmlDeviceGetEnforcedPowerLimit=lambda handle: 350_000,
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="abc"))
    meter = open_meter("GPU", 1)
    assert (meter.name, meter.measured) == (name, counts)
    assert [meter.joules(1.0), meter.joules(2.0)] == ([0.0, 7.0] if counts else [350.0, 700.0])


@pytest.mark.gpu
def test_a_real_gpu_uses_energy() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    meter = open_meter("GPU", 1)
    assert meter.measured
    x = torch.randn(4096, 4096, device="cuda")
    began = time.monotonic()
    while time.monotonic() - began < 2:
        x = (x @ x).clamp(-1, 1)
        torch.cuda.synchronize()
    assert 20 < meter.joules(2.0) < 4000
