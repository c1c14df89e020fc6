"""Training in several processes is training in one: on the CPU, by gloo, with one thread each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from lensbench import ranks
from lensbench.model.checkpoint import load
from lensbench.training import files, resume

CREW = Path(__file__).with_name("crew.py")
sys.path.insert(0, str(CREW.parent))
from crew import STOP_AFTER, Run, train  # noqa: E402 - a script that the processes run lies beside this file

pytestmark = pytest.mark.slow  # several processes, each of which imports torch

STRATEGIES = ("ddp", "fsdp")
# What is trained by two processes, and by one to compare with: changes of the experiment.
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "parts": {"training.accumulate": 2},
    "sizes": {"training.buckets": {"sides": (16, 8), "images": (3, 5), "groups": 2}},
    "sizes shared": {"training.buckets": {"sides": (16, 8), "images": (3, 5), "groups": 3}},
    "silent": {"captions.dropout": 0.9},  # now and then a process has not a word of text
    "bf16": {"training.precision": "bf16"},
    "muon": {"training.optimizer": "muon", "training.learning_rate": 6e-3},
}
# The same, but for something that goes wrong.
FAULTS = {"no number": ("no number", STRATEGIES), "memory": ("memory", ("ddp",)), "stopped": ("stop", STRATEGIES)}


def crew(folder: Path, processes: int, tasks: list[tuple[str, dict[str, Any], str]]) -> list[dict[str, Any]]:
    """Have so many processes train, one task after the other; what each process says of each."""
    running = []
    with ranks.meeting_point() as (listener, port):
        for rank in range(processes):
            env = os.environ | ranks.environment(rank, processes, listener, port) | {"OMP_NUM_THREADS": "1"}
            command = [sys.executable, str(CREW), str(folder), json.dumps(tasks)]
            inherited = (listener.fileno(),) if rank == 0 else ()
            running.append(subprocess.Popen(command, env=env, pass_fds=inherited, stderr=subprocess.PIPE, text=True))
    try:
        errors = [process.communicate()[1] for process in running]  # a test's own limit ends what hangs
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * processes, "\n".join(errors)
    return [json.loads((folder / f"told-{rank}.json").read_text()) for rank in range(processes)]


@pytest.fixture(scope="module")
def threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, threads: None) -> Path:
    """Every kind of run by one process."""
    folder = tmp_path_factory.mktemp("one")
    for name, changes in KINDS.items():
        assert train(folder / name, changes)["end"] == "done"
    assert train(folder / "no number", {}, "no number")["end"] == "done"
    assert train(folder / "stopped", {}, "stop")["end"] == "stopped"
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, one: Path) -> tuple[Path, list[dict[str, Any]]]:
    """The same by two processes and both strategies: a folder with runs such as "ddp plain", and what was said."""
    folder = tmp_path_factory.mktemp("two")
    tasks: list[tuple[str, dict[str, Any], str]] = []
    for strategy in STRATEGIES:
        where = {"training.strategy": strategy}
        tasks += [(f"{strategy} {name}", changes | where, "") for name, changes in KINDS.items()]
        tasks += [(f"{strategy} {name}", where, fault) for name, (fault, of) in FAULTS.items() if strategy in of]
        shutil.copytree(one / "stopped", folder / f"{strategy} from one")
        tasks.append((f"{strategy} from one", where, ""))
    tasks.append(("fsdp memory", {"training.strategy": "fsdp"}, "memory everywhere"))
    return folder, crew(folder, 2, tasks)


def weights(folder: Path, step: int = Run.steps) -> torch.Tensor:
    """All averaged weights after a step, as one vector."""
    state = load(files.checkpoint(folder, step)).state_dict()
    return torch.cat([tensor.flatten() for tensor in state.values()])


def apart(folder: Path, other: Path, step: int = Run.steps) -> float:
    """How far the averaged weights of two runs are apart, over their size."""
    a, b = weights(folder, step), weights(other, step)
    return float((a - b).norm() / b.norm())


def table(folder: Path) -> pd.DataFrame:
    return Run.losses(folder)


SUMMED = ["loss", "gradient_norm", "loss_t1", "loss_t2", "loss_t3", "loss_t4"]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", ["plain", "parts", "sizes", "sizes shared", "silent"])
def test_two_processes_train_as_one(
    strategy: str, kind: str, one: Path, two: tuple[Path, list[dict[str, Any]]]
) -> None:
    folder, told = two
    name = f"{strategy} {kind}"
    assert [of[name]["end"] for of in told] == ["done", "done"]
    ours, theirs = table(folder / name), table(one / kind)
    pd.testing.assert_frame_equal(ours[SUMMED], theirs[SUMMED], rtol=1e-5)
    assert ours["step"].tolist() == list(range(1, Run.steps + 1))
    # The average: after a quarter of the steps and after all of them.
    assert apart(folder / name, one / kind, Run.steps // 4) < 1e-6
    assert apart(folder / name, one / kind) < 1e-6
    assert apart(one / "plain", one / "parts" if kind == "plain" else one / "silent") > 0  # this can tell runs apart


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_in_bf16_two_processes_train_as_one_to_its_precision(
    strategy: str, one: Path, two: tuple[Path, list[dict[str, Any]]]
) -> None:
    ours, theirs = table(two[0] / f"{strategy} bf16"), table(one / "bf16")
    pd.testing.assert_series_equal(ours["loss"], theirs["loss"], rtol=2e-3)
    assert apart(two[0] / f"{strategy} bf16", one / "bf16") < 3e-3
    assert apart(two[0] / f"{strategy} bf16", one / "plain") > 1e-4
    assert weights(two[0] / f"{strategy} bf16").dtype == torch.float32


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_muon_works_on_whole_matrices(strategy: str, one: Path, two: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, told = two
    assert [of["muon"] for of in told] == [0.0, 0.0]  # to the bit, given the same gradients
    ours, theirs = table(folder / f"{strategy} muon"), table(one / "muon")
    pd.testing.assert_series_equal(ours["loss"][:5], theirs["loss"][:5], rtol=1e-5)
    # Muon works in bfloat16: rounding grows with the steps, and by how much depends on the threads.
    pd.testing.assert_series_equal(ours["loss"], theirs["loss"], rtol=2e-3)
    pd.testing.assert_series_equal(ours["gradient_norm"], theirs["gradient_norm"], rtol=2e-2)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_step_that_is_no_number_in_one_process_is_left_out_by_all(
    strategy: str, one: Path, two: tuple[Path, list[dict[str, Any]]]
) -> None:
    ours = table(two[0] / f"{strategy} no number")
    assert ours["step"][ours["skipped"] == 1].tolist() == [6, 7]
    assert apart(two[0] / f"{strategy} no number", one / "no number") < 1e-6


def test_memory_that_runs_out_in_one_process_halves_the_pieces_of_all(
    one: Path, two: tuple[Path, list[dict[str, Any]]]
) -> None:
    folder, told = two
    assert [of["ddp memory"]["end"] for of in told] == ["done", "done"]
    pd.testing.assert_frame_equal(table(folder / "ddp memory")[SUMMED], table(one / "plain")[SUMMED], rtol=1e-5)
    assert set(table(folder / "ddp memory")["pieces"]) == {2}


def test_memory_that_runs_out_under_fsdp_ends_the_run_with_what_to_do(two: tuple[Path, list[dict[str, Any]]]) -> None:
    for of in two[1]:
        assert "raise training.accumulate (it is 1)" in of["fsdp memory"]["end"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_signal_to_one_process_stops_all_and_one_process_goes_on(
    strategy: str, one: Path, two: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    folder, told = two
    name = f"{strategy} stopped"
    assert [of[name]["end"] for of in told] == ["stopped", "stopped"]
    point = resume.newest(folder / name / files.RESUME, Run.identity)
    assert point is not None
    assert point.step == STOP_AFTER
    assert point.state.is_dir() == (strategy == "fsdp")
    shutil.copytree(folder / name, tmp_path / "run")
    assert train(tmp_path / "run", {}) == {"end": "done", "first": STOP_AFTER + 1}
    pd.testing.assert_frame_equal(table(tmp_path / "run")[SUMMED], table(one / "plain")[SUMMED], rtol=1e-5)
    assert apart(tmp_path / "run", one / "plain") < 1e-6


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_go_on_from_one(strategy: str, one: Path, two: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, told = two
    name = f"{strategy} from one"
    assert told[0][name] == {"end": "done", "first": STOP_AFTER + 1}
    pd.testing.assert_frame_equal(table(folder / name)[SUMMED], table(one / "plain")[SUMMED], rtol=1e-5)
    assert apart(folder / name, one / "plain") < 1e-6


def test_a_damaged_part_of_a_resume_point_is_noticed(two: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    shutil.copytree(two[0] / "fsdp stopped" / files.RESUME, tmp_path / "resume")
    point = resume.newest(tmp_path / "resume", Run.identity)
    assert point is not None
    names = sorted(path.name for path in point.state.iterdir())
    assert names == [".metadata", "__0_0.distcp", "__1_0.distcp", "state.pt"]
    part = point.state / "__1_0.distcp"
    whole = part.read_bytes()
    part.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert resume.newest(tmp_path / "resume", Run.identity) is None
    part.unlink()
    assert resume.newest(tmp_path / "resume", Run.identity) is None


@pytest.mark.slow
def test_four_processes_go_on_from_two(one: Path, two: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    tasks = []
    for strategy in STRATEGIES:
        shutil.copytree(two[0] / "fsdp stopped", tmp_path / strategy)
        tasks.append((strategy, {"training.strategy": strategy}, ""))
    told = crew(tmp_path, 4, tasks)
    for strategy in STRATEGIES:
        assert told[0][strategy] == {"end": "done", "first": STOP_AFTER + 1}
        assert apart(tmp_path / strategy, one / "plain") < 1e-6


@pytest.mark.slow
@pytest.mark.timeout(900)  # compiling takes minutes where nothing is cached and the machine is busy
def test_compiled_and_checkpointed_two_processes_train_as_one(one: Path, tmp_path: Path) -> None:
    changes = {"training.compiled": True, "training.activation_checkpointing": True}
    told = crew(tmp_path, 2, [(strategy, changes | {"training.strategy": strategy}, "") for strategy in STRATEGIES])
    for strategy in STRATEGIES:
        assert [of[strategy]["end"] for of in told] == ["done", "done"]
        assert apart(tmp_path / strategy, one / "plain") < 1e-5


def test_where_it_is_trained_is_no_part_of_the_science() -> None:
    changed = Run.experiment.replace({"training.devices": 8, "training.strategy": "fsdp"})
    assert changed.hash() == Run.experiment.hash()
