"""Where the queue is kept: addresses, passwords, a server that is away."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import sqlalchemy.exc

from lensbench.commands.again import again
from lensbench.experiment import Experiment
from lensbench.sweep import storage
from lensbench.sweep.study import Study
from lensbench.sweep.sweep import Sweep, cells
from tests.sweep.postgres import PASSWORD, lacking, server

SWEEP = Sweep(
    name="s",
    base=Experiment(),
    factors={"captions.set": ("alt", "brief"), "seed": (0,)},
    reference={"captions.set": "alt"},
)
CELLS = cells(SWEEP)
needs_postgres = pytest.mark.skipif(bool(lacking()), reason=lacking())


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(storage.VARIABLE, raising=False)


def test_the_storage_is_as_given_or_of_the_environment_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert storage.address(None, tmp_path) == f"sqlite:///{tmp_path}/sweeps.db"
    monkeypatch.setenv(storage.VARIABLE, "postgresql://me:word@host/db")
    assert storage.address(None, tmp_path) == "postgresql+psycopg://me:word@host/db"
    assert storage.address("postgres://me@host/db", tmp_path) == "postgresql+psycopg://me@host/db"
    monkeypatch.chdir(tmp_path)
    assert storage.address("journal:queue", tmp_path) == f"journal:{tmp_path}/queue"
    with pytest.raises(ValueError, match="the storage is no address: give postgresql://") as caught:
        storage.address("me:word@host", tmp_path)
    assert "word" not in str(caught.value)


@pytest.mark.parametrize("url", ["postgresql+psycopg://me:word@host/db", "postgresql+psycopg://host/db?password=word"])
def test_an_address_is_shown_without_its_password(url: str) -> None:
    assert "word" not in storage.shown(url).replace("password", "")
    assert "host/db" in storage.shown(url)


def test_the_command_to_go_on_with_is_told_without_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["lensbench", "work", "s.py", "--storage", "postgresql://me:word@host/db"])
    assert "word" not in again()
    assert "postgresql://me:***@host/db" in again()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://me:word@127.0.0.1:1/db", r"cannot be used: .*127\.0\.0\.1.*Connection refused"),
        ("mysql+nothing://me:word@host/db", "no driver for this kind of storage"),
        ("sqlite:////nowhere/at/all.db", "cannot be used"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_one_line_without_a_password(
    url: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "FIRST_PATIENCE", 0.0)
    with pytest.raises(ValueError, match=says) as caught:
        storage.open_storage(storage.address(url, tmp_path), print)
    assert "word" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_password_with_an_at_sign_must_be_written_so_that_it_is_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds an @: write it as %40") as caught:
        storage.address("postgresql://me:se@cret@host/db", tmp_path)
    assert "cret" not in str(caught.value)
    assert "cret" not in storage.shown(storage.address("postgresql://me:se%40cret@host/db", tmp_path))


def test_a_storage_whose_database_is_dropped_is_one_line_and_not_waited_for() -> None:
    said: list[str] = []

    def gone() -> None:
        lost = Exception('connection failed: FATAL:  database "sweeps" does not exist')
        raise sqlalchemy.exc.OperationalError("SELECT 1", {}, lost)

    with pytest.raises(ValueError, match=r"storage is gone: .*\"sweeps\" does not exist; bring it back") as caught:
        storage.Patience(said.append)(gone)
    assert "\n" not in str(caught.value)
    assert said == []


def test_two_runs_directories_in_one_storage_have_studies_of_their_own(tmp_path: Path) -> None:
    url = f"journal:{tmp_path}/queue"
    studies = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        studies.append(Study(tmp_path / name, SWEEP, CELLS, url))
    assert studies[0].id != studies[1].id
    again = Study(tmp_path / "one", SWEEP, CELLS, url)
    assert again.id == studies[0].id
    assert again.numbers == studies[0].numbers == {cell.id: n for n, cell in enumerate(CELLS)}
    assert len(again._trials()) == len(CELLS)


def test_a_journal_whose_last_line_a_crash_cut_is_mended_and_never_appended_to(tmp_path: Path) -> None:
    file, said = tmp_path / "queue", list[str]()
    url = f"journal:{file}"
    study = Study(tmp_path, SWEEP, CELLS, url)
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"op_code":6,"worker')
    study.start(CELLS[0].id)  # a process that lives sees the line of one that died
    assert file.read_bytes().startswith(whole + b"{")
    assert b'"worker{' not in file.read_bytes()
    file.write_bytes(file.read_bytes() + b"{")
    again = Study(tmp_path, SWEEP, CELLS, url, said.append)
    assert again.numbers == study.numbers
    assert said == [f"{file}: a crash had cut its last line short; the 1 bytes of it are taken away"]
    assert len(again._trials()) == len(CELLS)


def test_cells_that_an_earlier_process_did_not_get_to_queue_are_queued_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"journal:{tmp_path}/queue"
    added = Study._add

    def dies(study: Study, cell: object) -> int:
        if cell is CELLS[1]:
            raise KeyboardInterrupt
        return added(study, cell)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(Study, "_add", dies)
        with pytest.raises(KeyboardInterrupt):
            Study(tmp_path, SWEEP, CELLS, url)
    study = Study(tmp_path, SWEEP, CELLS, url)
    assert [trial.user_attrs["cell"] for trial in study._trials()] == [cell.id for cell in CELLS]


def test_trials_added_at_once_are_those_that_optuna_adds_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name in ("at-once", "one-by-one"):
        (tmp_path / name).mkdir()
        if name == "one-by-one":
            monkeypatch.setattr("lensbench.sweep.study.add_at_once", lambda *arguments: False)
        study = Study(tmp_path / name, SWEEP, CELLS)
        assert study.numbers == {cell.id: n for n, cell in enumerate(CELLS)}
        found.append([(t.number, t.state, t.params, t.distributions, t.user_attrs) for t in study._trials()])
        assert study.start(CELLS[1].id) == study._first(CELLS[1].id)
    assert found[0] == found[1]


@needs_postgres
def test_a_server_that_restarts_is_waited_for_and_a_wrong_password_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with server() as database:
        study = Study(tmp_path, SWEEP, CELLS, database.url, said.append)
        trial = study.start(CELLS[0].id)
        database.stop()
        waiting = threading.Thread(target=lambda: study.complete(trial, 0.5), daemon=True)
        waiting.start()
        time.sleep(1.5)
        assert waiting.is_alive()
        database.start()
        waiting.join(30)
        assert not waiting.is_alive()
        assert [line.partition(" (")[0] for line in said] == [
            "the sweep's storage does not answer",
            "the sweep's storage answers again",
        ]
        assert PASSWORD not in " ".join(said)
        assert [trial.state.name for trial in study._trials()] == ["COMPLETE", "WAITING"]
        wrong = database.url.replace(PASSWORD, "guess")
        began = time.monotonic()
        with pytest.raises(ValueError, match="password authentication failed") as caught:
            Study(tmp_path, SWEEP, CELLS, wrong, said.append)
        assert time.monotonic() - began < 20
        assert "guess" not in str(caught.value)
