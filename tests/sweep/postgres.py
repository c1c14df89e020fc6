"""A PostgreSQL of a test's own, in a temporary folder: started, stopped and started again."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PASSWORD = "a-secret-of-the-tests"


def programs() -> Path | None:
    """Where initdb and pg_ctl are: Debian keeps them off the PATH."""
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "pg_ctl").exists() and (place / "initdb").exists()), None)


def lacking() -> str:
    """Why no PostgreSQL can be started here; empty where one can."""
    if programs() is None:
        return "initdb and pg_ctl: not installed (Debian: postgresql)"
    if os.geteuid() == 0 and shutil.which("runuser") is None:
        return "PostgreSQL does not run as root, and there is no runuser"
    return ""


@dataclass(frozen=True)
class Server:
    """A server with one database `sweeps`; `url` holds a password."""

    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"postgresql://postgres:{PASSWORD}@127.0.0.1:{self.port}/sweeps"

    def run(self, program: str, *arguments: str) -> None:
        bin_folder = programs()
        assert bin_folder is not None
        command = [str(bin_folder / program), *arguments]
        if os.geteuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, timeout=120)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off"
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-l", f"{self.folder}/log", "-w", "-o", options, "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-m", "fast", "-w", "stop")


@contextmanager
def server() -> Iterator[Server]:
    """A running server; it is gone afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    # Not in pytest's folder, which nobody but its owner may enter.
    with tempfile.TemporaryDirectory(prefix="lensbench-postgres-") as name:
        folder = Path(name)
        (folder / "password").write_text(PASSWORD)
        if os.geteuid() == 0:
            folder.chmod(0o755)
            for path in (folder, folder / "password"):
                shutil.chown(path, "postgres")
        made = Server(folder, port)
        options = ["-A", "scram-sha-256", "-U", "postgres", "--pwfile", f"{name}/password", "-N"]
        made.run("initdb", "-D", f"{name}/data", *options)
        made.start()
        try:
            import psycopg

            with psycopg.connect(made.url.replace("/sweeps", "/postgres"), autocommit=True) as connection:
                connection.execute("CREATE DATABASE sweeps")
            yield made
        finally:
            made.stop()
