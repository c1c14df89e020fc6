"""Hugging Face datasets as a source: a folder of `save_to_disk`, or a dataset streamed from the hub or a folder."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.data.sources import splits
from lensbench.data.sources.columns import caption_columns, content, image_column, unused_columns
from lensbench.data.sources.notes import Note, Noted, common_notes
from lensbench.data.sources.source import Place, Sample

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

ROWS = 32  # read at a time: pictures are large


def is_saved(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (path / "dataset_dict.json").is_file() or (
        (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    )


class DatasetSource:
    """The rows of one split of a dataset. What is streamed is downloaded again, up to the place, to go on."""

    def __init__(
        self,
        source: str,
        image: str | None = None,
        captions: tuple[str, ...] = (),
        *,
        split: str | None = None,
        lines: bool = False,
    ) -> None:
        self._folder, self._lines = Path(source), lines
        data, self._notes = _opened(source, split)
        schema = data.features.arrow_schema if data.features else _first_schema(data, source)
        self._image = image_column(schema, image, source)
        self.columns = caption_columns(schema, captions, source)
        self._notes += [] if captions else unused_columns(schema, self.columns)
        import datasets

        kept = data.select_columns(list({self._image, *self.columns.values()}))
        if kept.features and isinstance(kept.features[self._image], datasets.Image):
            kept = kept.cast_column(self._image, datasets.Image(decode=False))
        self._data = kept
        self.total = len(kept) if isinstance(kept, datasets.Dataset) else _rows_said(data)

    def fingerprint(self) -> str:
        """That of a saved dataset, the version of a streamed one; "" where neither is known."""
        return str(getattr(self._data, "_fingerprint", "") or self._data.info.version or "")

    def samples(self, place: Place) -> Iterator[Sample]:
        """Places are (0, rows that are done)."""
        _, row = place or (0, 0)
        for example in self._rows(row):
            said = {s: example[column] for s, column in self.columns.items()}
            row += 1
            load = functools.partial(content, example[self._image], said, self._folder, self._lines)
            yield Sample(f"row {row - 1}", (0, row), load)

    def notes(self, noted: Noted) -> list[Note]:
        """The split that was chosen, and the columns and files that were not used."""
        return [*self._notes, *common_notes(noted)]

    def _rows(self, done: int) -> Iterator[dict[str, Any]]:
        import datasets

        if isinstance(self._data, datasets.Dataset):
            for start in range(done, len(self._data), ROWS):
                rows = self._data[start : start + ROWS]
                for i in range(len(rows[self._image])):
                    yield {name: column[i] for name, column in rows.items()}
            return
        try:
            yield from self._data.skip(done)
        except (OSError, ValueError):
            raise
        except Exception as error:  # the network's own kinds
            raise OSError(f"reading the dataset: {type(error).__name__}: {error}") from error


def _opened(source: str, split: str | None) -> tuple[Any, list[Note]]:
    import datasets

    datasets.disable_progress_bars()
    if is_saved(Path(source)):
        return _chosen(datasets.load_from_disk(source), source, split)
    try:
        notes: list[Note] = []
        if split is None:
            split, notes = _taken(datasets.get_dataset_split_names(source), source)
        notes += _files_left(source)
        return datasets.load_dataset(source, split=split, streaming=True), notes
    except (OSError, ValueError):
        raise
    except Exception as error:  # the hub's and the network's own kinds
        raise OSError(f"dataset {source} cannot be opened: {type(error).__name__}: {error}") from error


def _taken(named: list[str], source: str) -> tuple[str, list[Note]]:
    if len(named) == 1:
        return named[0], []
    return splits.take_train(named, source), [Note(splits.said_of(named), False)]


def _files_left(source: str) -> list[Note]:
    """Files of a folder that the datasets package leaves out, as it does where some of them are named after a split."""
    if not Path(source).is_dir():
        return []
    import datasets

    of_splits = datasets.load_dataset_builder(source).config.data_files or {}
    taken = {Path(str(file)).suffix: 0 for files in of_splits.values() for file in files}
    for files in of_splits.values():
        for file in files:
            taken[Path(str(file)).suffix] += 1
    there = {ending: sum(1 for path in Path(source).rglob(f"*{ending}") if path.is_file()) for ending in taken}
    left = {ending: n for ending, n in there.items() if n > taken[ending]}
    said = ", ".join(f"{taken[ending]:,} of {n:,} {ending} files" for ending, n in left.items())
    why = "the datasets package takes them by the names of splits; without --format datasets all are read"
    return [Note(f"only {said} are read: {why}")] if left else []


def _chosen(
    data: datasets.Dataset | datasets.DatasetDict, source: str, split: str | None
) -> tuple[datasets.Dataset, list[Note]]:
    import datasets

    if isinstance(data, datasets.Dataset):
        if split is not None and split != str(data.split):
            raise ValueError(f"{source} is one dataset, of split {data.split}: leave --split out")
        return data, []
    notes: list[Note] = []
    if split is None:
        split, notes = _taken(list(data), source)
    if split == splits.EVERY:
        return datasets.concatenate_datasets(list(data.values())), notes
    if split not in data:
        raise ValueError(f"{source} has the splits {', '.join(data)}, not {split!r}")
    return data[split], notes


def _rows_said(data: datasets.IterableDataset) -> int | None:
    splits = data.info.splits or {}
    return splits[str(data.split)].num_examples or None if str(data.split) in splits else None


def _first_schema(data: datasets.IterableDataset, source: str) -> pa.Schema:
    import pyarrow as pa

    first = next(iter(data.take(1)), None)
    if first is None:
        raise ValueError(f"{source} has no rows")
    return pa.Table.from_pylist([first]).schema
