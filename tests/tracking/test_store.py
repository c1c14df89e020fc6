"""What MLflow shows is what the directories hold, whole, once, whatever happens on the way."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import pytest

from lensbench import spool
from lensbench.sweep.sweep import Sweep, cells
from lensbench.sweep.vitals import telling
from lensbench.tracking import attach, sync
from lensbench.tracking.entities import LONGEST
from lensbench.tracking.listing import listing
from lensbench.tracking.store import Mirror
from tests.tracking.cells import complete, parent_of, runs_of, seen, store, sweep_of, tell, whole, write_checkpoint

seeds: Iterator[int] = iter(range(10**6))


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for all tests, as making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def sweep(request: pytest.FixtureRequest) -> Sweep:
    """A sweep of this test's own, with two cells of its own."""
    return sweep_of(f"s{next(seeds)}", (next(seeds),))


def test_an_experiment_that_was_deleted_is_restored(tmp_path: Path, sweep: Sweep, uri: str) -> None:
    first, second = cells(sweep)
    complete(tmp_path / first.id, first.experiment)
    sync(tmp_path, sweep, uri)
    client, experiment = store(uri)
    client.delete_experiment(experiment)
    complete(tmp_path / second.id, second.experiment)
    mirror = Mirror(listing(sweep), tmp_path, uri)
    mirror.send()
    assert mirror.news == ["the experiment 'lensbench' had been deleted there, and is restored"]
    assert len(runs_of(uri, sweep)) == 2


def test_a_complete_cell_is_shown_as_its_directory_is(tmp_path: Path, sweep: Sweep, uri: str) -> None:
    cell = cells(sweep)[0]
    complete(tmp_path / cell.id, cell.experiment)
    sent, shown, refused = sync(tmp_path, sweep, uri)
    assert (sent["runs"], sent["models"], sent["files"], shown, refused) == (1, 2, 3, 1, {})
    (run,) = runs_of(uri, sweep)
    client, experiment = store(uri)
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == parent_of(uri, sweep).info.run_id
    assert run.data.params["model.depth"] == str(cell.experiment.model.depth)
    long = run.data.params["text_encoder.layers"]
    assert len(long) == LONGEST
    assert long.endswith("... (cut; see experiment.json)")
    assert run.data.tags["factor.captions.set"] == "alt"
    assert run.data.tags["mlflow.source.git.commit"] == "abc"
    assert run.data.metrics["geneval/short"] == 0.5  # the last step's
    assert "fd_shapes" not in run.data.metrics  # no number
    assert "train/images" not in run.data.metrics  # nothing to look at
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert len(history) == 599
    assert [m.step for m in history] == sorted(m.step for m in history)
    assert {(m.step, m.value) for m in history} >= {(1, 1.0), (600, 1 / 600)}
    inputs = {item.tags[0].value: item.dataset for item in run.inputs.dataset_inputs}
    assert inputs["images"].digest == "c" * 36
    assert json.loads(inputs["captions"].source) == {"sha256": "c" * 64}
    models = client.search_logged_models([experiment], f"source_run_id = '{run.info.run_id}'")
    last = next(model for model in models if model.tags["lensbench.step"] == "600")
    assert str(last.status) == "READY"
    folder = Path(last.tags["lensbench.path"])
    assert folder == (tmp_path / cell.id / "checkpoints" / "step-000600").resolve()
    digest = subprocess.run(["sha256sum", folder / "model.safetensors"], capture_output=True, text=True, check=True)
    assert digest.stdout.startswith(last.tags["sha256.model.safetensors"])
    assert {(m.key, m.step) for m in last.metrics} == {
        ("geneval/short", 600),
        ("geneval/detailed", 600),
        ("validation_loss/short", 600),
        ("train_seconds", 600),
    }
    assert parent_of(uri, sweep).info.status == "KILLED"  # the other cell has not been run


def test_sending_again_sends_nothing_and_an_empty_store_gets_everything(tmp_path: Path, sweep: Sweep, uri: str) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    whole(runs, sweep)
    assert sync(runs, sweep, uri)[0]["points"] > 2400
    before = seen(uri, sweep)
    assert sync(runs, sweep, uri)[0].total() == 0
    assert seen(uri, sweep) == before
    assert parent_of(uri, sweep).info.status == "FINISHED"
    empty = f"sqlite:///{tmp_path}/empty.db"
    sync(runs, sweep, empty)
    assert seen(empty, sweep) == before


def test_a_cell_is_one_run_while_it_is_begun_killed_taken_up_and_completed(
    tmp_path: Path, sweep: Sweep, uri: str
) -> None:
    cell = cells(sweep)[0]
    directory = tmp_path / cell.id
    mirror = Mirror(listing(sweep), tmp_path, uri)
    states = []

    def look() -> mlflow.entities.Run:
        mirror.send(session=True)
        (run,) = runs_of(uri, sweep)
        states.append((run.info.status, run.data.metrics.get("train/loss")))
        return run

    with suppress(KeyboardInterrupt), telling(directory):
        first = look().info.run_id
        tell(directory, 1, 250)
        look()
        raise KeyboardInterrupt
    look()
    with telling(directory):
        tell(directory, 251, 300)
        write_checkpoint(directory, 300)
        assert look().info.end_time is not None
        (directory / "error.txt").write_text("ValueError: no")
        look()
        (directory / "error.txt").unlink()
        tell(directory, 301, 600)
        complete(directory, cell.experiment)
    assert look().info.run_id == first
    assert [status for status, _ in states] == ["RUNNING", "RUNNING", "KILLED", "RUNNING", "FAILED", "FINISHED"]
    assert [loss for _, loss in states] == [None, 1 / 250, 1 / 250, 1 / 300, 1 / 300, 1 / 600]
    assert parent_of(uri, sweep).info.status == "RUNNING"
    once = seen(uri, sweep)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    shutil.copytree(directory, fresh / cell.id)
    sync(fresh, sweep, f"sqlite:///{tmp_path}/fresh.db")
    assert seen(f"sqlite:///{tmp_path}/fresh.db", sweep) == once


def test_a_killed_process_is_noticed_without_a_word_from_it(tmp_path: Path, sweep: Sweep, uri: str) -> None:
    directory = tmp_path / cells(sweep)[0].id
    code = (
        "import sys, pathlib, time; from lensbench.sweep.vitals import telling\n"
        "with telling(pathlib.Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    )
    mirror = Mirror(listing(sweep), tmp_path, uri)
    with subprocess.Popen([sys.executable, "-c", code, str(directory)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        mirror.send()
        assert runs_of(uri, sweep)[0].info.status == "RUNNING"
        assert mirror.running()
        process.kill()
    mirror.send()
    assert runs_of(uri, sweep)[0].info.status == "KILLED"
    assert not mirror.running()


def test_other_code_or_other_records_are_another_run_in_the_place_of_the_first(
    tmp_path: Path, sweep: Sweep, uri: str
) -> None:
    cell = cells(sweep)[0]
    directory = tmp_path / cell.id
    mirror = Mirror(listing(sweep), tmp_path, uri)
    directory.mkdir()
    spool.append(directory, [{"begin": {"host": "elsewhere", "pid": 1, "started": ""}}])
    tell(directory, 1, 100)
    write_checkpoint(directory, 50)
    mirror.send()
    (first,) = runs_of(uri, sweep)
    assert first.info.status == "RUNNING"  # for all that can be known from here
    tell(directory, 1, 30, identity="other code")
    mirror.send()
    (second,) = runs_of(uri, sweep)
    assert second.info.run_id != first.info.run_id
    assert second.data.metrics["train/loss"] == 1 / 30
    client, experiment = store(uri)
    assert not client.search_logged_models([experiment], f"source_run_id = '{first.info.run_id}'")
    tell(directory, 31, 600, identity="other code")
    complete(directory, cell.experiment)
    sync(tmp_path, sweep, uri)
    complete(directory, cell.experiment, value=0.875)
    sync(tmp_path, sweep, uri)
    (third,) = runs_of(uri, sweep)
    assert third.info.run_id != second.info.run_id
    assert third.data.metrics["geneval/short"] == 0.875
    seen(uri, sweep)  # nothing is there twice


WRITES = (
    *("create_run", "update_run", "set_terminated", "log_batch", "log_inputs", "log_outputs", "log_artifact"),
    *("create_logged_model", "finalize_logged_model"),
)


def _method(losing: Callable[..., Any], do: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **named: losing(do, *args, **named)


class LostError(Exception):
    """A request without an answer."""


@pytest.mark.slow
@pytest.mark.parametrize("heard", [True, False], ids=["heard", "not heard"])
def test_whichever_request_is_lost_everything_is_there_once(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch, heard: bool
) -> None:
    """The n-th request fails, whether or not the store has done what it asked; a new sender goes on: for every n."""
    quiet = sweep_of("quiet", (next(seeds),))
    (tmp_path / "quiet").mkdir()
    whole(tmp_path / "quiet", quiet)
    count = {"left": -1, "made": 0}

    def losing(do: Callable[..., Any], *args: Any, **named: Any) -> Any:
        count["made"] += 1
        count["left"] -= 1
        if count["left"] == 0 and not heard:
            raise LostError
        out = do(*args, **named)
        if count["left"] == 0:
            raise LostError
        return out

    for name in WRITES:
        do = getattr(mlflow.MlflowClient, name)
        monkeypatch.setattr(mlflow.MlflowClient, name, _method(losing, do))
    sync(tmp_path / "quiet", quiet, uri)
    requests = count["made"]
    expected = [comparable(seen(uri, quiet)[cell.id]) for cell in cells(quiet)]
    assert requests > 20
    lost = sweep_of("lost", (next(seeds),))
    runs = tmp_path / "lost"
    runs.mkdir()
    whole(runs, lost)
    for n in range(1, requests // 2 + 2):  # the first cell and the sweep's run; the second is like the first
        empty_again(uri, lost)
        count["left"] = n
        with pytest.raises(LostError):
            Mirror(listing(lost), runs, uri).send()
        count["left"] = -1
        Mirror(listing(lost), runs, uri).send()
        shown = seen(uri, lost)
        assert [comparable(shown[cell.id]) for cell in cells(lost)] == expected
        assert parent_of(uri, lost).info.status == "FINISHED"


def comparable(shown: tuple[Any, ...]) -> tuple[Any, ...]:
    """What is shown of a cell, but for what tells it from cells that are like it."""
    status, points, _, tags, linked, scores, files, data = shown
    return status, points, len(tags), linked, list(scores.values()), files, data


def empty_again(uri: str, sweep: Sweep) -> None:
    """Delete all that the store has of a sweep."""
    client, experiment = store(uri)
    for run in client.search_runs([experiment], max_results=1000):
        if sweep.name in (run.data.tags.get("lensbench.sweep"), *(tag[6:] for tag in run.data.tags if "sweep." in tag)):
            for model in client.search_logged_models([experiment], f"source_run_id = '{run.info.run_id}'"):
                client.delete_logged_model(model.model_id)
            client.delete_run(run.info.run_id)


def test_a_run_that_a_late_request_makes_is_deleted(tmp_path: Path, sweep: Sweep, uri: str) -> None:
    whole(tmp_path, sweep)
    mirror = Mirror(listing(sweep), tmp_path, uri)
    client = mlflow.MlflowClient(uri)
    original = Mirror._show_whole

    def late(self: Mirror, cell_id: str, *args: Any) -> None:
        client.create_run(self.experiment, tags={"lensbench.cell": cell_id, "lensbench.runs": self.name})
        original(self, cell_id, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mirror, "_show_whole", late)
        mirror.send()
    _, experiment = store(uri)
    for cell in cells(sweep):
        assert len(client.search_runs([experiment], f"tags.`lensbench.cell` = '{cell.id}'")) == 1


def test_two_senders_at_once_make_one_run_a_cell(tmp_path: Path, sweep: Sweep, uri: str) -> None:
    whole(tmp_path, sweep)
    code = (
        "import sys, json, pathlib; from lensbench.tracking.listing import Listing\n"
        "from lensbench.tracking.store import Mirror\n"
        "Mirror(Listing(**json.loads(sys.argv[1])), pathlib.Path(sys.argv[2]), sys.argv[3]).send()"
    )
    listed = json.dumps(vars(listing(sweep)))
    command = [sys.executable, "-c", code, listed, str(tmp_path), uri]
    senders = [subprocess.Popen(command) for _ in range(2)]
    assert [sender.wait(60) for sender in senders] == [0, 0]
    assert len(seen(uri, sweep)) == 2
    parent_of(uri, sweep)


def test_sweeps_that_share_a_cell_show_it_once(tmp_path: Path, sweep: Sweep, uri: str) -> None:
    other = sweep.model_copy(update={"name": f"{sweep.name}-too"})
    whole(tmp_path, sweep)
    sync(tmp_path, sweep, uri)
    sent, shown, _ = sync(tmp_path, other, uri)
    assert (sent.total(), shown) == (0, 2)
    assert [r.info.run_id for r in runs_of(uri, other)] == [r.info.run_id for r in runs_of(uri, sweep)]
    assert parent_of(uri, other).info.status == "FINISHED"


def test_a_later_evaluation_joins_the_run_of_its_cell(tmp_path: Path, sweep: Sweep, uri: str) -> None:
    whole(tmp_path, sweep)
    sync(tmp_path, sweep, uri)
    before = {run.info.run_id for run in runs_of(uri, sweep)}
    later = sweep.model_copy(update={"base": sweep.base.replace({"evaluation.guidance": 7.0})})
    for cell in cells(later):
        complete(tmp_path / cell.id, cell.experiment, value=0.125)
    for again in (False, True):
        sent, shown, refused = sync(tmp_path, later, uri)
        assert (shown, refused) == (2, {})
        assert (sent.total() == 0) == again
    found = runs_of(uri, later)
    assert {run.info.run_id for run in found} == before
    later_id = later.base.evaluation_id()
    for run in found:
        assert run.info.status == "FINISHED"
        assert run.data.metrics["geneval/short"] == 0.5
        assert run.data.metrics[f"geneval/short/{later_id}"] == 0.125


def test_the_same_cells_in_two_places_do_not_mix(tmp_path: Path, sweep: Sweep, uri: str) -> None:
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        whole(tmp_path / place, sweep)
        assert sync(tmp_path / place, sweep, uri)[0]["runs"] == 2
    assert len(runs_of(uri, sweep)) == 4


def test_what_mlflow_refuses_is_said_and_the_other_cells_are_shown(tmp_path: Path, sweep: Sweep, uri: str) -> None:
    whole(tmp_path, sweep)
    bad, good = cells(sweep)
    spool.append(tmp_path / bad.id, [{"step": 1, "train": {"no name: %": 1.0}}])
    (tmp_path / bad.id / "records.parquet").unlink()
    _, shown, refused = sync(tmp_path, sweep, uri)
    assert shown == 1
    assert list(refused) == [bad.id]
    assert "no name" in refused[bad.id]
    assert [run.info.status for run in runs_of(uri, sweep) if run.data.tags["lensbench.cell"] == good.id] == [
        "FINISHED"
    ]


def test_what_is_attached_is_found_in_the_sweeps_run_and_twice_is_once(tmp_path: Path, sweep: Sweep, uri: str) -> None:
    table = tmp_path / "captions.md"
    table.write_text("first")
    assert attach(tmp_path, sweep, [table], "captions", uri) is None  # the sweep has never been shown: nor is this
    Mirror(listing(sweep), tmp_path, uri).send()
    for words in ("first", "second"):
        table.write_text(words)
        assert attach(tmp_path, sweep, [table], "captions", uri) is None
    client = mlflow.MlflowClient(uri)
    parent = parent_of(uri, sweep).info.run_id
    (found,) = client.list_artifacts(parent, "captions")
    assert found.path == "captions/captions.md"
    assert Path(client.download_artifacts(parent, found.path, str(tmp_path))).read_text() == "second"
    why = attach(tmp_path, sweep, [tmp_path / "not there.md"], "captions", uri)
    assert why is not None
    assert "\n" not in why
