"""Images, a captioner's settings and a server that fails as it is told to."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

SECRET = "sk-proj-not-to-be-seen-0123456789"


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_load("fault_server")


class Pictures:
    """As an imported corpus gives its images, in memory: tiny PNGs, and any other bytes."""

    def __init__(self, n: int, others: tuple[bytes, ...] = ()) -> None:
        self.data: dict[str, bytes] = {}
        for data in (*(_png(i) for i in range(n)), *others):
            self.data[hashlib.sha256(data).hexdigest()] = data
        self.keys = list(self.data)

    def read(self, key: str) -> bytes:
        return self.data[key]


def _png(i: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 12), (i % 256, i // 256, 7)).save(out, "PNG")
    return out.getvalue()


class Quiet:
    """A display that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)

    def live(self, tally: Any, spending: Any, at_a_time: int) -> None:
        pass

    def batches(self, tally: Any, under_way: Any) -> None:
        pass


@pytest.fixture
def pictures() -> type[Pictures]:
    return Pictures


@pytest.fixture
def server() -> Iterator[Any]:
    """A server that captions everything until it is told otherwise."""
    with sys.modules["fault_server"].Server() as found:
        yield found


@pytest.fixture
def display() -> Quiet:
    return Quiet()


@pytest.fixture
def asking() -> Any:
    from lensbench.captioner.prompts import open_prompt
    from lensbench.captioner.requests import Asking

    return Asking("gpt-4.1", open_prompt("detailed-v1"), 600)


@pytest.fixture
def write(
    server: Any, display: Quiet, asking: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """`write(images, timeout=..., **fields of Run)`: have captions written by the server, in this process."""
    from lensbench.captioner import live, writing
    from lensbench.captioner.client import Server
    from lensbench.captioner.prices import open_prices

    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setattr(live, "LONGEST_BACKOFF", 0.05)

    def run(
        images: Any, *, timeout: float = 5.0, asking: Any = asking, only: Any = None, key: str = SECRET, **fields: Any
    ) -> Any:
        monkeypatch.setenv("OPENAI_API_KEY", key)
        price = open_prices().of("gpt-4.1")
        assert price is not None
        how = replace(writing.Run(Server(server.url, timeout), poll=0.05), **fields)
        return writing.write(images, tmp_path / "set", asking, price[0], how, display, only)

    return run


@pytest.fixture
def rows(tmp_path: Path) -> Callable[[], dict[str, dict[str, Any]]]:
    """Every row of the set that `write` writes, by key; each key is there once."""
    from lensbench.captions.store import CaptionSet

    def read() -> dict[str, dict[str, Any]]:
        table = CaptionSet(tmp_path / "set").table().to_pylist()
        found = {row["key"]: row for row in table}
        assert len(found) == len(table), "two rows for one key"
        return found

    return read


@pytest.fixture
def in_batches(write: Callable[..., Any]) -> Callable[..., Any]:
    """`write`, in batches of ten."""

    def run(images: Any, **fields: Any) -> Any:
        return write(images, **({"batch": True, "batch_requests": 10, "poll": 0.05} | fields))

    return run


@pytest.fixture
def worst_usd(asking: Any) -> float:
    """What a live request costs at most, in dollars."""
    from lensbench.captioner import estimate
    from lensbench.captioner.prices import open_prices

    price = open_prices().of("gpt-4.1")
    assert price is not None
    return estimate.worst_usd(asking, price[0], batch=False)
