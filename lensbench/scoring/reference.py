"""Reference statistics on disk in the npz layouts of clean-fid and EDM: "mu" (F,) and "sigma" (F, F); "feats" (N, F).

clean-fid keeps `mu` and `sigma` for FID and `feats`, in a file that ends in _kid.npz, for KID; EDM and pytorch-fid keep
`mu` and `sigma`. None says what made the numbers. What this project writes, all of them can read; beside the arrays it
holds "lensbench", a JSON text with the extractor, its digest and resize, the number of images and their digest, and
that is checked when it is read. Statistics were made by one extractor with one resize: clean-fid's files with "clean",
EDM's with "tensorflow".
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensbench.publishing import publish
from lensbench.scoring.extractors import Extractor
from lensbench.scoring.frechet import Moments

ABOUT = "lensbench"


@dataclass(frozen=True)
class Reference:
    """What a file holds: the mean and covariance, the features themselves or both; `about` is empty for others' files.

    `count` is None where the file does not say how many images there were.
    """

    path: Path
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    rows: NDArray[np.float32] | None
    count: int | None
    about: Mapping[str, Any] = field(default_factory=dict)

    def refuse_other(self, extractor: Extractor) -> None:
        """Raise ValueError, one line, when the file was made by another extractor, other weights or another resize."""
        if len(self.mean) != extractor.dimensions:
            raise ValueError(
                f"{self.path}: {len(self.mean):,} dimensions, but {extractor.name} has {extractor.dimensions:,}; "
                "both sides need the same extractor"
            )
        due = about_extractor(extractor)
        for name, value in due.items():
            if name in self.about and self.about[name] != value:
                raise ValueError(f"{self.path}: made with {name} {self.about[name]!r}, not {value!r}; make it again")

    def moments(self) -> Moments:
        """As if the images had been seen; ValueError where their number is not known."""
        if self.count is None:
            raise ValueError(f"{self.path}: does not say how many images it was made from")
        return Moments(self.count, self.mean.copy(), self.covariance * (self.count - 1))


def about_extractor(extractor: Extractor) -> dict[str, Any]:
    """What must be equal for two sets of features to be compared."""
    return {"extractor": extractor.name, "weights": extractor.digest, "resize": extractor.resize}


def read_reference(path: Path) -> Reference:
    """Read a file of statistics or features. Raises ValueError, one line, when it is neither, OSError when it
    is not there; no pickle is opened."""
    path.stat()  # an absent file is an OSError, which says so
    try:
        if not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in ("mu", "sigma", "feats", ABOUT) if name in archive.files}
            names = ", ".join(sorted(archive.files)) or "nothing"
    except (ValueError, zipfile.BadZipFile, EOFError):  # pickled objects too: they can run code
        raise ValueError(f"{path}: not an .npz of numbers; reference statistics are 'mu' and 'sigma'") from None
    about = _about(path, found.get(ABOUT))
    if "feats" in found:
        rows = np.asarray(found["feats"], dtype=np.float32)
        if rows.ndim != 2:
            raise ValueError(f"{path}: feats has shape {rows.shape}; (images, dimensions) is needed")
        seen = Moments().update(rows)
        return Reference(path, seen.mean, seen.covariance, rows, len(rows), about)
    if not {"mu", "sigma"} <= found.keys():
        raise ValueError(f"{path}: holds {names}; reference statistics are 'mu' and 'sigma', or 'feats'")
    mean, covariance = (np.asarray(found[name], dtype=np.float64) for name in ("mu", "sigma"))
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(f"{path}: mu has shape {mean.shape} and sigma {covariance.shape}; (F,) and (F, F) are needed")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(f"{path}: mu or sigma is not finite")
    count = about.get("images")
    return Reference(path, mean, covariance, None, count if isinstance(count, int) else None, about)


def write_reference(
    path: Path, moments: Moments, extractor: Extractor, images_digest: str, rows: np.ndarray | None = None
) -> None:
    """Write statistics, and the features (N, F) where they are given, so that each library above reads its own part."""
    about = about_extractor(extractor) | {"images": moments.count, "images_digest": images_digest}
    arrays: dict[str, Any] = {"mu": moments.mean, "sigma": moments.covariance, ABOUT: np.array(json.dumps(about))}
    if rows is not None:
        arrays["feats"] = np.asarray(rows, dtype=np.float32)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        np.savez(file, **arrays)
    publish(partial, path)


def _about(path: Path, text: np.ndarray | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        found = json.loads(str(text))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: its note {ABOUT!r} is not JSON; make the file again")
    return found
