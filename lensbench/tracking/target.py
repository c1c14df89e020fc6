"""Where MLflow is: its address, said without its secrets, and a client that gives up soon."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote, urlsplit

if TYPE_CHECKING:
    import mlflow

DATABASE = "mlflow.db"  # in the directory of the runs, unless another place is named
VARIABLE = "MLFLOW_TRACKING_URI"  # MLflow's own
SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
KNOWN = ("http://", "https://", "sqlite:///", "postgresql://", "postgresql+psycopg://", "postgresql+psycopg2://")
TIMEOUT_SECONDS = 5  # of one request, which is not tried twice: the sender tries everything again
LONGEST_REASON = 200


def target(given: str | None, runs: Path) -> str | None:
    """The address of MLflow: the one given, else that of MLFLOW_TRACKING_URI, else `runs`/mlflow.db; None for "none".

    Raises ValueError for an address of another kind.
    """
    uri = (given or os.environ.get(VARIABLE) or _own(runs)).strip()
    if uri == "none":
        return None
    uri = re.sub("^postgres(ql)?://", "postgresql+psycopg://", uri)  # else SQLAlchemy takes another driver
    if not uri.startswith(KNOWN):
        where = "--tracking" if given else VARIABLE
        raise ValueError(
            f"{where} {shown(uri)}: give http://HOST:PORT, sqlite:///FILE, postgresql://USER@HOST/DATABASE, or none"
        )
    return uri


def _own(runs: Path) -> str:
    # Quoted: in an address ? begins options, and %41 is A.
    return f"sqlite:///{quote(str((runs / DATABASE).resolve()))}"


def shown(uri: str) -> str:
    """The address without user name and password: nothing up to the last @, which a password may hold too."""
    return re.sub(r"([?&]password=)[^&\s]*", r"\1***", re.sub(r"//\S*@", "//", uri))


def reason(error: BaseException, uri: str) -> str:
    """An error in one short line, its first cause, without what is secret in the address or the environment."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    line = next((line for line in str(error).splitlines() if line.strip()), "")
    text = f"{type(error).__name__}: {line}"
    parts = urlsplit(uri)
    passwords = [parts.password or "", *parse_qs(parts.query).get("password", [])]
    for secret in (*passwords, *map(unquote, passwords), *(os.environ.get(name, "") for name in SECRETS)):
        text = text.replace(secret, "***") if secret else text
    text = shown(text)
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 4] + " ..."


def client(uri: str) -> mlflow.MlflowClient:
    """A client of the store, whose requests end after TIMEOUT_SECONDS and are not repeated."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(TIMEOUT_SECONDS))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("PGCONNECT_TIMEOUT", str(TIMEOUT_SECONDS))
    import mlflow

    return mlflow.MlflowClient(tracking_uri=uri)
