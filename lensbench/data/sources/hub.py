"""Hugging Face datasets as a source: a folder of `save_to_disk`, or a dataset streamed from the hub or a folder."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.data.sources.columns import caption_columns, content, image_column
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
        self, source: str, image: str | None = None, captions: tuple[str, ...] = (), split: str | None = None
    ) -> None:
        self._folder = Path(source)
        data = _opened(source, split)
        schema = data.features.arrow_schema if data.features else _first_schema(data, source)
        self._image = image_column(schema, image, source)
        self.columns = caption_columns(schema, captions, source)
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
            yield Sample(
                f"row {row - 1}", (0, row), functools.partial(content, example[self._image], said, self._folder)
            )

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


def _opened(source: str, split: str | None) -> Any:
    import datasets

    datasets.disable_progress_bars()
    if is_saved(Path(source)):
        return _chosen(datasets.load_from_disk(source), source, split)
    try:
        if split is None:
            names = datasets.get_dataset_split_names(source)
            if len(names) != 1:
                raise ValueError(f"{source} has the splits {', '.join(names)}: say which with --split")
            split = names[0]
        return datasets.load_dataset(source, split=split, streaming=True)
    except (OSError, ValueError):
        raise
    except Exception as error:  # the hub's and the network's own kinds
        raise OSError(f"dataset {source} cannot be opened: {type(error).__name__}: {error}") from error


def _chosen(data: datasets.Dataset | datasets.DatasetDict, source: str, split: str | None) -> datasets.Dataset:
    import datasets

    if isinstance(data, datasets.Dataset):
        if split is not None and split != str(data.split):
            raise ValueError(f"{source} is one dataset, of split {data.split}: leave --split out")
        return data
    if split is None and len(data) == 1:
        return next(iter(data.values()))
    if split not in data:
        raise ValueError(f"{source} has the splits {', '.join(data)}: say which with --split")
    return data[split]


def _rows_said(data: datasets.IterableDataset) -> int | None:
    splits = data.info.splits or {}
    return splits[str(data.split)].num_examples or None if str(data.split) in splits else None


def _first_schema(data: datasets.IterableDataset, source: str) -> pa.Schema:
    import pyarrow as pa

    first = next(iter(data.take(1)), None)
    if first is None:
        raise ValueError(f"{source} has no rows")
    return pa.Table.from_pylist([first]).schema
