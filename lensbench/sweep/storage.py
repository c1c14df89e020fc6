"""Where a sweep's queue is kept: SQLite in the runs directory, PostgreSQL, or Optuna's journal on a shared folder.

A server that goes away is waited for. A password appears in no message: addresses are shown without it, and processes
are given the address by their environment.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

VARIABLE = "LENSBENCH_STORAGE"
DATABASE = "sweeps.db"
JOURNAL = "journal:"
FIRST_PATIENCE = 20.0  # seconds for a server that does not answer when it is first asked: it may be starting
LONGEST_PAUSE = 15.0
HOPELESS = re.compile(r"authentication failed|does not exist|no pg_hba|could not translate|Name or service|no password")

FINAL = re.compile(r"authentication failed|does not exist|no pg_hba|no password")  # of one that answered before

T = TypeVar("T")


def address(given: str | None, runs: Path) -> str:
    """The address of the storage: as given, or of the environment, or of the SQLite file in `runs`.

    ValueError for one that is none.
    """
    import sqlalchemy

    url = given or os.environ.get(VARIABLE) or ""
    if not url:
        return own(runs)
    if url.startswith(JOURNAL):
        return JOURNAL + str(Path(url.removeprefix(JOURNAL)).absolute())
    try:
        parsed = sqlalchemy.make_url(url)
    except sqlalchemy.exc.ArgumentError:
        raise ValueError(
            "the storage is no address: give postgresql://USER@HOST/DATABASE, sqlite:///FILE or journal:FILE"
        ) from None
    if "@" in (parsed.host or ""):
        raise ValueError("the storage's password holds an @: write it as %40, as an address has it")
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed.render_as_string(hide_password=False)


def own(runs: Path) -> str:
    """The address of the SQLite file in `runs`, which serves no other directory."""
    import sqlalchemy

    return sqlalchemy.URL.create("sqlite", database=str(runs / DATABASE)).render_as_string()


def shown(url: str) -> str:
    """An address for people, without its password."""
    import sqlalchemy

    if url.startswith(JOURNAL):
        return url
    parsed = sqlalchemy.make_url(url)
    if "password" in parsed.query:
        parsed = parsed.update_query_dict({"password": "***"})
    return parsed.render_as_string(hide_password=True)


def open_storage(url: str, say: Callable[[str], None]) -> BaseStorage:
    """Open what `address` gave. ValueError, in one line, when it cannot be reached or its driver is missing."""
    import optuna
    import sqlalchemy.exc

    if url.startswith(JOURNAL):
        from optuna.storages.journal import JournalFileBackend

        class Journal(JournalFileBackend):
            """Never appends to a line that a crash cut short."""

            def append_logs(self, logs: list[dict[str, Any]]) -> None:
                mend_journal(file, say)
                super().append_logs(logs)

        file = Path(url.removeprefix(JOURNAL))
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            mend_journal(file, say)
            return optuna.storages.JournalStorage(Journal(str(file)))
        except ValueError as error:  # json's is one
            raise ValueError(f"{file} cannot be used ({error}); move it away and run again") from error
    arguments: dict[str, Any] = {}
    sqlite = url.startswith("sqlite")
    if sqlite:  # a busy database is waited for: a sweep's few writes are never worth an error
        arguments = {"connect_args": {"timeout": 60}}
    elif url.startswith("postgresql+psycopg:"):  # a server that is cut off must be noticed
        waits = {"connect_timeout": 10, "keepalives_idle": 30, "tcp_user_timeout": 30_000}
        arguments = {"pool_pre_ping": True, "connect_args": waits}
    where, asked = shown(url), 0
    limit, told = time.monotonic() + FIRST_PATIENCE, False
    while True:
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=arguments)
        except (ImportError, sqlalchemy.exc.NoSuchModuleError) as error:
            raise ValueError(f"{where}: no driver for this kind of storage ({error}); install it") from error
        except Exception as error:
            reason = _reason(error)
            if sqlite and _database_error(error):
                path = sqlalchemy.make_url(url).database
                raise ValueError(f"{path} cannot be used ({reason}); move it away and run again") from error
            asked += 1
            raced = "already exists" in reason and asked < 5  # another machine makes the tables just now
            if not raced and not _database_error(error):
                raise
            if not raced and (HOPELESS.search(reason) or time.monotonic() > limit or not is_away(error)):
                raise ValueError(f"the storage {where} cannot be used: {reason}") from None
            if not told and not raced:
                say(f"the storage {where} does not answer ({reason}); trying for {FIRST_PATIENCE:.0f} s")
                told = True
            time.sleep(1.0)


def mend_journal(file: Path, say: Callable[[str], None]) -> None:
    """Take away what is left of a line that a crash cut short at the end of a journal: nobody was told it is there."""
    from optuna.storages.journal import JournalFileSymlinkLock

    if not _cut_short(file):
        return
    lock = JournalFileSymlinkLock(str(file))  # Optuna's own: who writes just now is waited for
    lock.acquire()
    try:
        if not _cut_short(file):
            return
        data = file.read_bytes()
        whole = data.rfind(b"\n") + 1
        os.truncate(file, whole)
    finally:
        lock.release()
    say(f"{file}: a crash had cut its last line short; the {len(data) - whole} bytes of it are taken away")


def _cut_short(file: Path) -> bool:
    if not file.is_file() or not file.stat().st_size:
        return False
    with file.open("rb") as journal:
        journal.seek(-1, os.SEEK_END)
        return journal.read() != b"\n"


def add_at_once(storage: BaseStorage, study_id: int, trials: Sequence[FrozenTrial]) -> bool:
    """Add waiting trials to a study of a database that has none, numbered from 0, in one transaction.

    Optuna's own way takes a transaction a trial and counts those before it: minutes for ten thousand. Returns False,
    and does nothing, where the study has trials already or the storage is another.
    """
    import optuna
    import sqlalchemy
    from optuna.distributions import distribution_to_json
    from sqlalchemy.orm import Session

    if not isinstance(storage, optuna.storages.RDBStorage):
        return False
    from optuna.storages._rdb import models

    trial_table, params = models.TrialModel.__table__, models.TrialParamModel.__table__
    attributes = models.TrialUserAttributeModel.__table__
    texts: dict[str, str] = {}  # the levels of a factor, which every trial repeats
    with Session(storage.engine) as session, session.begin():
        models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
        of_study = sqlalchemy.select(trial_table.c.trial_id).where(trial_table.c.study_id == study_id)
        if session.execute(of_study.limit(1)).first() is not None:
            return False
        rows = [{"number": n, "study_id": study_id, "state": trial.state} for n, trial in enumerate(trials)]
        session.execute(trial_table.insert(), rows)
        ids = session.execute(of_study.order_by(trial_table.c.number)).scalars().all()
        of_trials, of_attributes = [], []
        for trial_id, trial in zip(ids, trials, strict=True):
            for name, value in trial.params.items():
                distribution = trial.distributions[name]
                if name not in texts:
                    texts[name] = distribution_to_json(distribution)
                row = {"trial_id": trial_id, "param_name": name, "distribution_json": texts[name]}
                of_trials.append(row | {"param_value": distribution.to_internal_repr(value)})
            for key, said in trial.user_attrs.items():
                of_attributes.append({"trial_id": trial_id, "key": key, "value_json": json.dumps(said)})
        session.execute(params.insert(), of_trials)
        session.execute(attributes.insert(), of_attributes)
    return True


class Patience:
    """Makes calls to a storage, waiting for it while it does not answer."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say

    def __call__(self, call: Callable[[], T]) -> T:
        pause, away = 0.5, False
        while True:
            try:
                result = call()
            except Exception as error:
                if not is_away(error):
                    raise
                if FINAL.search(reason := _reason(error)):
                    raise ValueError(f"the sweep's storage is gone: {reason}; bring it back and run again") from None
                if not away:
                    self.say(f"the sweep's storage does not answer ({_reason(error)}); waiting for it")
                    away = True
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                if away:
                    self.say("the sweep's storage answers again")
                return result


def is_away(error: BaseException) -> bool:
    """Whether an error of a storage says that its server does not answer just now."""
    import sqlalchemy.exc

    found = _database_error(error)
    if found is None:
        return False
    if type(found.orig).__module__ == "sqlite3":
        return "locked" in str(found.orig)
    lost = isinstance(found, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError)
    return lost or found.connection_invalidated


def _database_error(error: BaseException | None) -> Any:
    # What SQLAlchemy raised: Optuna wraps it.
    import sqlalchemy.exc

    while error is not None and not isinstance(error, sqlalchemy.exc.DBAPIError):
        error = error.__cause__ or error.__context__
    return error


def _reason(error: BaseException) -> str:
    found = _database_error(error)
    lines = str(found.orig if found is not None else error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
