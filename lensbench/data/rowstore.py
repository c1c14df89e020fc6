"""A store on disk of rows by name, each computed once, by whichever of many processes comes to it.

    made_from.json   what the rows were made from; its sha256 names the folder
    <random>.rows    a shard: names, offsets and values of some rows, one .npy after the other, memory-mapped
    <random>.damaged a shard that is not as it was written; its rows are computed again
    <random>.claim   the names that a process is computing; it holds a lock on the file
    <random>.partial the shard that it is writing

A row is an array of the store's type and trailing shape, as long along its first axis as its name says; its name is 16
bytes of a sha256. A shard appears whole or not at all and is never changed; a run that is killed loses the one it was
writing. Any number of processes fill a store together: each claims some of the missing rows, computes, publishes them,
and looks again. Rows that another has claimed are waited for; when it dies, however it dies, the kernel releases
its lock, and they are claimed by the next.

`fill` reads each shard that holds rows it is asked for once a process, and compares it with its seal
(lensbench.sealing). Shards of earlier versions have none.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lensbench.locks import file_lock
from lensbench.publishing import publish
from lensbench.sealing import SEAL_BYTES, is_whole, seal

# A claim is a sixteenth of what is left, within these bounds: processes end together, and a crash costs little.
SMALL_BYTES, SHARD_BYTES = 8 * 2**20, 256 * 2**20
CLAIMED_SHARE = 16
SEAL_THREADS = 8  # that compare shards with their seals: the disk is the limit then
WAIT_SECONDS = 0.2  # between two looks at what other processes compute
_NAME = "S16"

# The numbers of the rows to compute, of those asked for -> each of them, in that order, some at a time.
Compute = Callable[[np.ndarray], Iterable[list[np.ndarray]]]
Report = Callable[[int, int], None]  # rows that are there, of all that are asked for


def names_of(texts: Iterable[str]) -> np.ndarray:
    """The names of rows that are known by a text, or by an image's key."""
    return np.array([hashlib.sha256(text.encode()).digest()[:16] for text in texts], dtype=_NAME)


@dataclass(frozen=True)
class Cost:
    """What some rows take: how many they are, how many of them are there, and the bytes that are still to be written.

    The few bytes a row of names and offsets are not counted.
    """

    rows: int
    there: int
    bytes: int


class Shard:
    """The rows of one file: `names` (N,), `offsets` (N + 1,) into `values`, which are mapped when first asked for.

    Raises ValueError, naming the file, when it is damaged or of another type or shape than its store.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.path, self._dtype, self._shape = path, dtype, shape
        with self._reading(), path.open("rb") as file:
            self.names = np.lib.format.read_array(file, allow_pickle=False)
            self.offsets = np.lib.format.read_array(file, allow_pickle=False)
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("not an array")
            found, _, kind = np.lib.format.read_array_header_1_0(file)
            self._start = file.tell()
            self._bytes = path.stat().st_size
            if (kind, found[1:]) != (dtype, shape):
                raise ValueError(f"it holds {kind} {found[1:]}, not {dtype} {shape}")
            if len(self.offsets) != len(self.names) + 1 or found[0] != self.offsets[-1]:
                raise ValueError("its parts do not fit together")
            self._end = self._start + found[0] * _row_bytes(dtype, shape)
            if self._bytes not in (self._end, self._end + SEAL_BYTES):
                raise ValueError("it is cut short")
        self._values: np.ndarray | None = None

    @property
    def values(self) -> np.ndarray:
        """Every row, one after the other along the first axis."""
        if self._values is None:
            import torch

            if not self.path.exists():
                raise ValueError(f"{self.path} is gone: start again, and it is computed again")
            # np.memmap would keep a file descriptor open for every shard.
            with self._reading():
                raw = torch.from_file(str(self.path), shared=False, size=self._bytes, dtype=torch.uint8).numpy()
            self._values = raw[self._start : self._end].view(self._dtype).reshape(-1, *self._shape)
        return self._values

    def is_whole(self) -> bool:
        """Whether the file is as it was written; of one without a seal nobody can say otherwise."""
        return self._bytes == self._end or is_whole(self.path)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_values": None}  # another process maps the file itself

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:  # NumPy has no one class for a damaged file
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{self.path} is damaged ({reason}): start again, and it is computed again") from None


@dataclass(frozen=True)
class StoredRows:
    """Rows of a store, in the order they were asked for, read from the disk as they are needed."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]  # of a row, without its first axis
    shards: Sequence[Shard]
    shard: np.ndarray  # (N,) which shard each row is in
    start: np.ndarray  # (N,) where it begins there
    lengths: np.ndarray  # (N,) along its first axis

    def __len__(self) -> int:
        return len(self.lengths)

    def read(self, rows: Sequence[int]) -> list[np.ndarray]:
        """Some rows, as views of the mapped files."""
        places = zip(self.shard[rows].tolist(), self.start[rows].tolist(), self.lengths[rows].tolist(), strict=True)
        return [self.shards[shard].values[start : start + length] for shard, start, length in places]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Some rows, joined along their first axis."""
        return np.concatenate(self.read(rows.tolist())) if len(rows) else np.empty((0, *self.shape), self.dtype)


class RowStore:
    """The rows that `made_from` gives, in `cache/kind/<24 digits of its sha256>`; nothing is written before `fill`."""

    def __init__(
        self, cache: Path, kind: str, made_from: Mapping[str, object], dtype: Any, shape: tuple[int, ...]
    ) -> None:
        self._made_from = json.dumps(made_from, sort_keys=True)
        self.folder = cache / kind / hashlib.sha256(self._made_from.encode()).hexdigest()[:24]
        self.dtype, self.shape = np.dtype(dtype), shape
        self.row_bytes = _row_bytes(self.dtype, shape)  # for each step along a row's first axis
        self._shards: list[Shard] = []
        self._known: set[str] = set()

    def cost(self, names: np.ndarray, lengths: np.ndarray) -> Cost:
        """What these rows take. Those of a shard that cannot be opened count as missing: `fill` computes them."""
        self._look([])
        missing = ~_in(names, _joined(self._shards))
        return Cost(len(names), int((~missing).sum()), int(lengths[missing].sum()) * self.row_bytes)

    def rows(self, names: np.ndarray) -> StoredRows:
        """Rows that are there, in the order of `names`. Raises ValueError for one that is not, or a damaged shard."""
        every, none = self._there(), np.empty(0, dtype=np.int64)
        shard = np.repeat(np.arange(len(self._shards)), [len(shard.names) for shard in self._shards])
        start = np.concatenate([none, *(shard.offsets[:-1] for shard in self._shards)])
        length = np.concatenate([none, *(np.diff(shard.offsets) for shard in self._shards)])
        if not _in(names, every).all():
            raise ValueError(f"{self.folder}: rows are missing: start again, and they are computed")
        order = np.argsort(every, kind="stable")
        places = order[np.searchsorted(every, names, sorter=order)]
        if damaged := self._not_whole(np.unique(shard[places])):
            raise ValueError(f"{damaged[0].path} is damaged: start again, and it is computed again")
        return StoredRows(self.dtype, self.shape, tuple(self._shards), shard[places], start[places], length[places])

    def fill(self, names: np.ndarray, lengths: np.ndarray, compute: Compute, report: Report | None = None) -> None:
        """Compute those of the rows that are missing, with whatever other processes do the same.

        `names` are distinct; rows are claimed in their order. `report` is told of every batch that is computed here.
        A damaged shard is set aside first: see `mend`. Raises OSError when the disk has no room for them, and what
        `compute` raises; the shards that are finished stay.
        """
        self.mend(names)
        left = np.flatnonzero(~_in(names, self._there()))
        if len(left):
            check_room(self.folder, int(lengths[left].sum()) * self.row_bytes)
            self._begin()
        while len(left):
            with contextlib.ExitStack() as held:
                claim, mine, left = self._claim(names, lengths, left, held)
                done = len(names) - len(left)
                if claim is not None:
                    partial = claim.with_suffix(".partial")
                    batches = _reported(compute(mine), done, len(names), report)
                    self._write(partial, names[mine], lengths[mine], batches)
                    publish(partial, claim.with_suffix(".rows"))
                    continue
            if len(left):  # others are at it
                if report is not None:
                    report(done, len(names))
                time.sleep(WAIT_SECONDS)

    def mend(self, names: np.ndarray) -> list[Path]:
        """Set damaged shards aside that hold some of these rows, so that those are computed again; the files' paths.

        A shard that cannot be opened is set aside whatever it holds.
        """
        aside: list[Path] = []
        self._look(aside)
        every = _joined(self._shards)
        shard = np.repeat(np.arange(len(self._shards)), [len(shard.names) for shard in self._shards])
        damaged = self._not_whole(np.unique(shard[_in(every, names)]))
        self._shards = [shard for shard in self._shards if shard not in damaged]
        aside += [shard.path for shard in damaged]
        for path in aside:
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                path.rename(path.with_suffix(".damaged"))
        return aside

    def _not_whole(self, places: np.ndarray) -> list[Shard]:
        """The damaged ones of some shards."""
        some = [self._shards[place] for place in places.tolist()]
        with ThreadPoolExecutor(SEAL_THREADS) as pool:  # hashing lets other threads run
            return [shard for shard, whole in zip(some, pool.map(Shard.is_whole, some), strict=True) if not whole]

    def _begin(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "made_from.json"
        if not path.exists():
            partial = self.folder / f"{uuid.uuid4().hex[:12]}.made_from"
            partial.write_text(self._made_from)
            publish(partial, path)

    def _write(self, path: Path, names: np.ndarray, lengths: np.ndarray, batches: Iterable[list[np.ndarray]]) -> None:
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        with path.open("wb") as file:
            np.lib.format.write_array(file, names)
            np.lib.format.write_array(file, offsets)
            header = {"descr": self.dtype.str, "fortran_order": False, "shape": (int(offsets[-1]), *self.shape)}
            np.lib.format.write_array_header_1_0(file, header)
            rows = (row for batch in batches for row in batch)
            for row, length in zip(rows, lengths, strict=True):
                assert (row.dtype, row.shape) == (self.dtype, (length, *self.shape)), "a row is what was asked for"
                file.write(np.ascontiguousarray(row).data)
        seal(path)

    def _claim(
        self, names: np.ndarray, lengths: np.ndarray, left: np.ndarray, held: contextlib.ExitStack
    ) -> tuple[Path | None, np.ndarray, np.ndarray]:
        """A claim on some of the rows `left`, which rows these are, and which are missing still; `held` ends it.

        It is None when nothing is missing any more, or others compute all that is.
        """
        with file_lock(self.folder / ".lock"):
            # First what is claimed, then what is there: a row that is published in between is seen twice, not never.
            taken = self._claimed()
            left = left[~_in(names[left], _joined(self._look()))]
            free = left[~_in(names[left], taken)]
            if not len(free):
                return None, free, left
            total = np.cumsum(lengths[free] * self.row_bytes)
            most = min(max(int(total[-1]) // CLAIMED_SHARE, SMALL_BYTES), SHARD_BYTES)
            mine = free[: max(1, int(np.searchsorted(total, most, side="right")))]
            claim = self.folder / f"{uuid.uuid4().hex[:12]}.claim"
            held.enter_context(file_lock(claim))
            held.callback(_remove, claim)
            claim.write_bytes(names[mine].tobytes())
        return claim, mine, left

    def _claimed(self) -> np.ndarray:
        """What living processes are computing; what dead ones left is removed."""
        taken = [np.empty(0, _NAME)]
        for claim in self.folder.glob("*.claim"):
            with file_lock(claim, wait=False) as dead:
                if dead:
                    _remove(claim)
                    continue
            with contextlib.suppress(FileNotFoundError):  # it has just been finished
                taken.append(np.frombuffer(claim.read_bytes(), dtype=_NAME))
        return np.concatenate(taken)

    def _look(self, damaged: list[Path] | None = None) -> list[Shard]:
        """The shards that have appeared since the last look; those that cannot be opened go to `damaged` or raise."""
        fresh = []
        for path in self.folder.glob("*.rows"):
            if path.name in self._known:
                continue
            try:
                fresh.append(Shard(path, self.dtype, self.shape))
                self._known.add(path.name)
            except FileNotFoundError:  # somebody has just deleted it
                continue
            except ValueError:
                if damaged is None:
                    raise
                damaged.append(path)
        self._shards += fresh
        return fresh

    def _there(self) -> np.ndarray:
        """The names of all rows that are there, shard by shard."""
        self._look()
        return _joined(self._shards)


def being_filled(cache: Path) -> bool:
    """Whether a living process is computing rows of any store under `cache`."""
    for claim in cache.rglob("*.claim"):
        with contextlib.suppress(FileNotFoundError), file_lock(claim, wait=False) as dead:
            if not dead:
                return True
    return False


def _remove(claim: Path) -> None:
    claim.with_suffix(".partial").unlink(missing_ok=True)
    claim.unlink(missing_ok=True)


def _reported(
    batches: Iterable[list[np.ndarray]], done: int, total: int, report: Report | None
) -> Iterator[list[np.ndarray]]:
    for batch in batches:
        yield batch
        done += len(batch)
        if report is not None:
            report(done, total)


def _joined(shards: Sequence[Shard]) -> np.ndarray:
    return np.concatenate([np.empty(0, _NAME), *(shard.names for shard in shards)])


def _in(names: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Which names are among others, which are far fewer as a rule: np.isin would sort both."""
    if not len(among):
        return np.zeros(len(names), dtype=bool)
    among = np.sort(among)
    return np.asarray(among[np.minimum(np.searchsorted(among, names), len(among) - 1)] == names)


def check_room(folder: Path, needed: int) -> None:
    """OSError, one line, unless the disk of `folder`, which need not exist yet, has `needed` bytes free."""
    if needed > (free := free_bytes(folder)):
        # what a disk that fills up raises: every further cell of a sweep would fail as well
        why = f"{shown(needed)} are to be written and the disk has {shown(free)} free"
        raise OSError(errno.ENOSPC, why, str(folder))


def free_bytes(folder: Path) -> int:
    """What is free on the disk of a folder, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def shown(n: float) -> str:
    """Bytes for people: 512 bytes, 1.2 MB, 340 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "bytes" or n >= 100 else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:,.1f} TB"


def _row_bytes(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    return dtype.itemsize * int(np.prod(shape))
