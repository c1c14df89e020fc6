"""Score any folder of pictures: against another folder or reference statistics, and against their prompts.

What cannot give a number is refused before any picture is decoded; what makes one doubtful is said beside it. Beside
every distance stands its floor: the same measure between real pictures and real ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lensbench.metrics import MEASURES
from lensbench.scoring import metrics as measures
from lensbench.scoring.corpus_images import open_real
from lensbench.scoring.extractors import Extractor, Resize
from lensbench.scoring.feature_pass import Sample, SetFeatures, Timing, extract, image_values
from lensbench.scoring.image_prompts import Prompted, other_prompts
from lensbench.scoring.image_scores import Scorer, open_scorer
from lensbench.scoring.images_folder import Images, open_images, refuse_equal, warnings_about
from lensbench.scoring.metrics import Wanted, check, open_extractor
from lensbench.scoring.reference import Reference, read_reference, write_reference
from lensbench.scoring.set_scores import Row, distance_rows, halves, halves_of_rows, image_rows

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Asked:
    """What to compute and with what; `against` is a folder, an imported corpus or an .npz, `floor` not an .npz."""

    folder: Path
    metrics: Sequence[Wanted]
    against: Path | None = None
    floor: Path | None = None
    prompts: Callable[[Images], list[Prompted]] | None = None
    prefix: str = ""
    weights: Mapping[str, str] = field(default_factory=dict)
    resize: Resize = "clean"
    device: str = "cpu"
    batch: int = 32
    workers: int = 2
    seed: int = 0
    save: Path | None = None  # where the statistics of `folder` go
    save_features: bool = False


@dataclass
class Scores:
    """The rows, what makes them doubtful, and the sets they are of."""

    rows: list[Row] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    sets: dict[str, dict[str, Any]] = field(default_factory=dict)
    timing: Timing = field(default_factory=Timing)
    seconds: float = 0.0
    saved: Path | None = None

    def warn(self, lines: Sequence[str]) -> None:
        self.warnings += [line for line in lines if line not in self.warnings]


@dataclass(frozen=True)
class RealSets:
    """What is compared with: statistics or images, and other real images for the floor."""

    stored: Reference | None = None
    images: Images | None = None
    floor: Images | None = None

    @property
    def count(self) -> int | None:
        """How many images the reference is of; None where that is not known."""
        if self.images is not None:
            return len(self.images)
        return self.stored.count if self.stored is not None else None


@dataclass(frozen=True)
class Networks:
    """Extractors by their names, and who scores single images."""

    extractors: dict[str, Extractor]
    scorers: dict[Wanted, Scorer]


@dataclass(frozen=True)
class Ready:
    """All that images are scored with, opened and found to fit what is asked."""

    real: RealSets
    networks: Networks


def made_ready(asked: Asked, images: int) -> Ready:
    """All that so many images will be scored with, before they are sampled.

    Raises ValueError, one line, for everything that `score_folder` would not find afterwards: metrics that lack a
    reference, weights or images of the reference that are not there, and images too few for a metric.
    """
    _refuse_incomplete(asked)
    real = _open_real(asked)
    networks = _open_networks(asked, real)
    _doubts(asked, real, networks, images)
    return Ready(real, networks)


def score_folder(asked: Asked, report: Report = lambda what, done, total: None, ready: Ready | None = None) -> Scores:
    """Compute what was asked, with what is ready or opened now. Raises ValueError, one line, for what can be mended.

    All that can be refused is refused before any image is decoded.
    """
    began = time.perf_counter()
    scores = Scores()
    _refuse_incomplete(asked)
    images = open_images(asked.folder)
    scores.sets["folder"] = _about_set(images)
    scores.warn(warnings_about(images))
    real = ready.real if ready is not None else _open_real(asked)
    _tell_real(real, images, scores)
    prompted = _prompted(asked, images, scores)
    networks = ready.networks if ready is not None else _open_networks(asked, real)
    scores.warn(_doubts(asked, real, networks, len(images)))
    if networks.extractors:
        _against(asked, real, networks.extractors, images, scores, report)
    for metric, scorer in networks.scorers.items():
        _score_images(asked, metric, scorer, images, prompted, scores, report)
    scores.seconds = time.perf_counter() - began
    return scores


def _of_sets(asked: Asked) -> list[Wanted]:
    """The metrics that compare two sets."""
    return [metric for metric in asked.metrics if metric.of_sets]


def _refuse_incomplete(asked: Asked) -> None:
    pairs = _of_sets(asked)
    if pairs and asked.against is None and asked.save is None:
        raise ValueError(f"{pairs[0].word} compares two sets: give the real one with --against FOLDER or STATS.npz")
    if asked.floor is not None and asked.against is None:
        raise ValueError("--floor is a second set of real pictures, beside --against")
    if asked.save is not None and len({metric.extractor for metric in pairs}) != 1:
        raise ValueError("--save-statistics is of one extractor: ask for the metrics of one, as in --metrics fid,kid")
    if unknown := sorted(asked.weights.keys() - measures.EXTRACTORS.keys()):
        raise ValueError(f"--weights {unknown[0]}: no such extractor; there are {', '.join(measures.EXTRACTORS)}")


def _about_set(images: Images) -> dict[str, Any]:
    return {
        "path": str(images.folder),
        "name": images.said,
        "images": len(images),
        "digest": images.digest,
        "formats": dict(images.formats),
        "sizes": {f"{width}x{height}": count for (width, height), count in images.sizes.items()},
    }


def _open_real(asked: Asked) -> RealSets:
    """What is compared with. ValueError, one line, where it is not there or cannot be compared with."""
    if asked.against is None or not (pairs := _of_sets(asked)):
        return RealSets()
    floor = None if asked.floor is None else open_real(asked.floor)
    if asked.against.suffix != ".npz":
        return RealSets(images=open_real(asked.against), floor=floor)
    names = list(dict.fromkeys(metric.extractor for metric in pairs))
    if len(names) > 1:
        raise ValueError(
            f"{asked.against}: statistics are of one extractor, but the metrics need {', '.join(names)}; ask apart"
        )
    return RealSets(stored=read_reference(asked.against), floor=floor)


def _tell_real(real: RealSets, images: Images, scores: Scores) -> None:
    """Tell what is compared with and what makes that doubtful. ValueError where it is the same images."""
    if real.stored is not None:
        scores.sets["against"] = {"path": str(real.stored.path), "images": real.stored.count, **real.stored.about}
        if not real.stored.about:
            scores.warn(
                [
                    f"{real.stored.path} does not say what made it: that extractor, resize and number of images fit is "
                    "for you to know"
                ]
            )
    if real.images is not None:
        refuse_equal(images, real.images)
        scores.sets["against"] = _about_set(real.images)
        scores.warn([*warnings_about(real.images), *warnings_about(images, real.images)])
    if real.floor is not None:
        scores.sets["floor"] = _about_set(real.floor)
        scores.warn(warnings_about(real.floor, real.images))
        for other in filter(None, (images, real.images)):
            refuse_equal(real.floor, other)


def _open_networks(asked: Asked, real: RealSets) -> Networks:
    """The extractors and scorers that are asked for. ValueError, one line, for weights that are not there or other ones
    than the reference's."""
    names = list(dict.fromkeys(metric.extractor for metric in _of_sets(asked)))
    extractors = {name: open_extractor(name, asked.weights, asked.device, asked.resize) for name in names}
    if real.stored is not None:
        real.stored.refuse_other(extractors[names[0]])
    singles = [metric for metric in asked.metrics if not metric.of_sets]
    return Networks(
        extractors,
        {metric: open_scorer(metric, asked.weights, "--weights", asked.device, asked.prefix) for metric in singles},
    )


def _doubts(asked: Asked, real: RealSets, networks: Networks, images: int) -> list[str]:
    """What makes numbers of so many images doubtful. ValueError, one line, where they would mean nothing."""
    said: list[str] = []
    for metric in asked.metrics:
        measure = MEASURES[metric.measure]
        if not metric.of_sets:
            said += check(measure, images, None, 0)
            continue
        if asked.against is None:
            continue
        said += check(measure, images, real.count, networks.extractors[metric.extractor].dimensions)
        if measure.rows[1] and real.stored is not None and real.stored.rows is None:
            raise ValueError(
                f"{real.stored.path}: holds a mean and a covariance, but {metric.word} needs the features of "
                "every picture; give the folder, or an .npz with 'feats'"
            )
    return said


def _against(
    asked: Asked,
    real_sets: RealSets,
    extractors: Mapping[str, Extractor],
    images: Images,
    scores: Scores,
    report: Report,
) -> None:
    """The measures of two sets: one pass over each folder, then the numbers."""
    pairs, names = _of_sets(asked), list(extractors)
    stored, real_images, floor_images = real_sets.stored, real_sets.images, real_sets.floor

    def seen(of: Images, what: str, side: int) -> dict[str, SetFeatures]:
        keep = {metric.extractor for metric in pairs if asked.against and MEASURES[metric.measure].rows[side]}
        # halves of the reference stand in for drawn images in its floor
        keep |= {metric.extractor for metric in pairs if side and MEASURES[metric.measure].rows[0]}
        if not side and asked.save_features:
            keep |= set(names)
        return extract(
            of,
            extractors,
            keep=frozenset(keep),
            batch=asked.batch,
            workers=asked.workers,
            seed=asked.seed,
            timing=scores.timing,
            report=lambda done, total: report(what, done, total),
        )

    drawn = seen(images, "pictures", 0)
    if asked.save is not None:
        _save(asked.save, drawn[names[0]], extractors[names[0]], images, asked.save_features)
        scores.saved = asked.save
    if asked.against is None:
        return
    real = seen(real_images, "reference", 1) if real_images is not None else None
    floor = seen(floor_images, "floor", 1) if floor_images is not None else None
    for metric in pairs:
        name = metric.extractor
        if real is not None:
            whole, in_halves = real[name].whole(), halves(real[name])
        else:
            assert stored is not None
            whole = Sample(stored.mean, stored.covariance, stored.count, stored.rows)
            in_halves = halves_of_rows(stored.rows, asked.seed)
        other_real = floor[name].whole() if floor is not None else None
        report(metric.word, 0, 0)
        scores.rows += distance_rows(
            metric, extractors[name], drawn[name].whole(), whole, in_halves, other_real, asked.seed
        )
    if floor_images is None and any(row.floor != row.floor for row in scores.rows):
        scores.warn([row.floor_of for row in scores.rows if row.floor != row.floor])


def _save(path: Path, found: SetFeatures, extractor: Extractor, images: Images, features: bool) -> None:
    from lensbench.scoring.frechet import Moments

    both = Moments().merge(found.halves[0]).merge(found.halves[1])
    write_reference(path, both, extractor, images.digest, found.rows if features else None)


def _prompted(asked: Asked, images: Images, scores: Scores) -> list[Prompted]:
    """The prompt of each image where one is read; else each image is for itself. ValueError, one line, where there are
    none."""
    if not (reading := [metric for metric in asked.metrics if metric.reads_texts]):
        return [Prompted("", str(i)) for i in range(len(images))]
    if asked.prompts is None:
        raise ValueError(f"{MEASURES[reading[0].measure].label} needs the prompts: give them with --prompts FILE")
    found = asked.prompts(images)
    scores.warn(other_prompts(images, found))
    return found


def _score_images(
    asked: Asked,
    metric: Wanted,
    scorer: Scorer,
    images: Images,
    prompted: Sequence[Prompted],
    scores: Scores,
    report: Report,
) -> None:
    texts = [prompt.text for prompt in prompted]
    scores.warn(scorer.doubts(texts))
    what = f"{MEASURES[metric.measure].label} {scorer.name}".strip()
    found = image_values(
        images,
        texts,
        scorer,
        batch=asked.batch,
        workers=asked.workers,
        report=lambda done, total: report(what, done, total),
    )
    outcomes = [
        asdict(prompt) | {"image": images.name(i)} | told
        for i, (prompt, told) in enumerate(zip(prompted, scorer.each(found, texts), strict=True))
    ]
    first, *others = image_rows(scorer, found, texts, [prompt.cluster for prompt in prompted])
    scores.rows += [replace(first, details={**first.details, "outcomes": outcomes}), *others]
