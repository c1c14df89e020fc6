"""Which split a file belongs to by its path, in Hugging Face's words: train, validation or test."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

EVERY = "all"  # as --split takes it
# https://huggingface.co/docs/hub/datasets-file-names-and-splits
_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words}
# A word of a split that no letter touches, as in train-00000-of-00001 and train2017.
_WORD = re.compile(rf"(?<![a-z])({'|'.join(_SPLIT_OF)})(?![a-z])")


class Choice(NamedTuple):
    """The split that is read, None for everything, and what there is to say about it."""

    split: str | None = None
    said: str = ""
    loud: bool = False


def split_of(path: str) -> str | None:
    """The split that the nearest part of a path names, or None where no part names one, or one names several."""
    for part in reversed(PurePath(path).parts):
        if found := {_SPLIT_OF[word] for word in _WORD.findall(part.lower())}:
            return found.pop() if len(found) == 1 else None
    return None


def choose(splits: Iterable[str | None], asked: str | None, source: str, what: str = "files") -> Choice:
    """What to read of a source whose `what` belong to these splits.

    Several splits are a choice: train where nothing is asked. Raises ValueError when a split is asked for that is not
    there, or none is and there is no train.
    """
    found = set(splits)
    named = [split for split in _WORDS if split in found]
    there = f"{source} has the splits {', '.join(named)}"
    if asked == EVERY:
        return Choice()
    if asked is not None:
        wanted = _SPLIT_OF.get(asked)
        if wanted not in named:
            none = f"{source}: no {what} are named after a split: leave --split out"
            raise ValueError(f"{there}, not {asked!r}" if named else none)
        return Choice(wanted, f"split {wanted}")
    if len(named) < 2:
        return Choice()
    if None in found:
        said = f"some {what} are of the splits {', '.join(named)} and others of none: all are read"
        return Choice(
            None, f"{said}. --split {named[0]} reads one split, --split {EVERY} says that all are meant", True
        )
    return Choice(take_train(named, source), said_of(named))


def files(paths: Sequence[Path], asked: str | None, source: str) -> tuple[list[Path], Choice]:
    """Those of a source's files that are of the split that is read. Files that a pattern names are meant, every one."""
    folder = Path(source)
    if asked is None and not folder.is_dir():
        return list(paths), Choice()
    names = [str(path.relative_to(folder)) if folder.is_dir() else path.name for path in paths]
    found = [split_of(name) for name in names]
    choice = choose(found, asked, source)
    return [path for path, split in zip(paths, found, strict=True) if choice.split in (None, split)], choice


def take_train(named: Sequence[str], source: str) -> str:
    """The split that is read where several are there and none is asked for. ValueError where it is not clear which."""
    if "train" not in named:
        raise ValueError(f"{source} has the splits {', '.join(named)}: say which with --split")
    return "train"


def said_of(named: Sequence[str]) -> str:
    """For example `split train is read, not validation and test: --split reads another`."""
    others = [name for name in named if name != "train"]
    return f"split train is read, not {' and '.join(others)}: --split NAME reads another, --split {EVERY} every one"
