"""The address of MLflow, and what must not be said of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import sqlalchemy

from lensbench.tracking.target import reason, shown, target


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("http://host:5000", "http://host:5000"),
        ("postgresql://a@h/d", "postgresql+psycopg://a@h/d"),
        ("postgres://a@h/d", "postgresql+psycopg://a@h/d"),
        ("postgresql+psycopg2://a@h/d", "postgresql+psycopg2://a@h/d"),
        ("sqlite:///x.db", "sqlite:///x.db"),
        ("none", None),
    ],
)
def test_addresses(given: str, address: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert target(given, tmp_path) == address
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert target(None, tmp_path) == address


def test_without_an_address_it_is_a_file_beside_the_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert target(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_file_lies_where_it_is_said_whatever_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    runs = tmp_path / "what? %41 #1"
    assert sqlalchemy.make_url(target(None, runs) or "").database == str(runs / "mlflow.db")


@pytest.mark.parametrize("password", ["p@ss", "p@s/s", "p%40ss", "@", "a:b@c@d"])
def test_no_part_of_a_password_is_shown(password: str) -> None:
    assert shown(f"http://me:{password}@host:5000/x") == "http://host:5000/x"


def test_an_address_of_another_kind_is_one_line_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"foo://h/d: give http://HOST:PORT") as raised:
        target("foo://a:secret@h/d", tmp_path)
    assert "secret" not in str(raised.value)


def test_errors_are_told_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "postgresql+psycopg://me:s%40cret@host/db"
    monkeypatch.setitem(os.environ, "MLFLOW_TRACKING_TOKEN", "tok-123")
    assert shown(uri) == "postgresql+psycopg://host/db"
    error = RuntimeError(f"cannot reach {uri} as s@cret with s%40cret and tok-123\nand more" + "x" * 1000)
    line = reason(error, uri)
    assert "cret" not in line
    assert "tok-123" not in line
    assert "\n" not in line
    assert shown("postgresql://h/d?password=x%21y&sslmode=require") == "postgresql://h/d?password=***&sslmode=require"
    assert "x!y" not in reason(RuntimeError("x!y was wrong"), "postgresql://h/d?password=x%21y")
    outer = RuntimeError("something failed")
    outer.__cause__ = ConnectionRefusedError(111, "Connection refused")
    assert reason(outer, uri) == "ConnectionRefusedError: [Errno 111] Connection refused"
