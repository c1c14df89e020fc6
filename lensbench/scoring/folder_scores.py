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

from lensbench.scoring import metrics as measures
from lensbench.scoring.extractors import Extractor, Resize
from lensbench.scoring.feature_pass import Sample, SetFeatures, Timing, cosines, extract
from lensbench.scoring.image_prompts import Prompted
from lensbench.scoring.images_folder import Images, open_images, refuse_equal, warnings_about
from lensbench.scoring.metrics import CLIP_SCORE, MEASURES, Wanted, open_extractor
from lensbench.scoring.reference import Reference, read_reference, write_reference
from lensbench.scoring.set_scores import Row, distance_rows, halves, halves_of_rows, image_text_rows

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Asked:
    """What to compute and with what; `against` is a folder or an .npz, `floor` a folder of other real pictures."""

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


def score_folder(asked: Asked, report: Report = lambda what, done, total: None) -> Scores:
    """Compute what was asked. Raises ValueError, one line, for what the user can mend."""
    began = time.perf_counter()
    scores = Scores()
    _refuse_incomplete(asked)
    images = open_images(asked.folder)
    scores.sets["folder"] = _about_set(images)
    scores.warn(warnings_about(images))
    pairs = [metric for metric in asked.metrics if metric.measure != CLIP_SCORE]
    if pairs:
        _against(asked, pairs, images, scores, report)
    for metric in asked.metrics:
        if metric.measure == CLIP_SCORE:
            _clip_score(asked, metric, images, scores, report)
    scores.seconds = time.perf_counter() - began
    return scores


def _refuse_incomplete(asked: Asked) -> None:
    pairs = [metric for metric in asked.metrics if metric.measure != CLIP_SCORE]
    if pairs and asked.against is None and asked.save is None:
        raise ValueError(
            f"{':'.join(pairs[0])} compares two sets: give the real one with --against FOLDER or STATS.npz"
        )
    if asked.floor is not None and asked.against is None:
        raise ValueError("--floor is a second set of real pictures, beside --against")
    if asked.save is not None and len({metric.extractor for metric in pairs}) != 1:
        raise ValueError("--save-statistics is of one extractor: ask for the metrics of one, as in --metrics fid,kid")
    if unknown := sorted(asked.weights.keys() - measures.EXTRACTORS.keys()):
        raise ValueError(f"--weights {unknown[0]}: no such extractor; there are {', '.join(measures.EXTRACTORS)}")


def _about_set(images: Images) -> dict[str, Any]:
    return {
        "path": str(images.folder),
        "images": len(images),
        "digest": images.digest,
        "formats": dict(images.formats),
        "sizes": {f"{width}x{height}": count for (width, height), count in images.sizes.items()},
    }


def _against(asked: Asked, pairs: Sequence[Wanted], images: Images, scores: Scores, report: Report) -> None:
    """The measures of two sets: guards first, then one pass over each folder, then the numbers."""
    names = list(dict.fromkeys(metric.extractor for metric in pairs))
    stored = real_images = None
    if asked.against is not None and asked.against.suffix == ".npz":
        stored = _stored(asked.against, names, scores)
    elif asked.against is not None:
        real_images = open_images(asked.against)
        refuse_equal(images, real_images)
        scores.sets["against"] = _about_set(real_images)
        scores.warn([*warnings_about(real_images), *warnings_about(images, real_images)])
    floor_images = None if asked.floor is None else open_images(asked.floor)
    if floor_images is not None:
        scores.sets["floor"] = _about_set(floor_images)
        for other in filter(None, (images, real_images)):
            refuse_equal(floor_images, other)
    real_count = len(real_images) if real_images is not None else stored.count if stored is not None else None
    extractors: dict[str, Extractor] = {}
    for name in names:
        extractors[name] = open_extractor(name, asked.weights, asked.device, asked.resize)
    if stored is not None:
        stored.refuse_other(extractors[names[0]])
    if asked.against is not None:
        for metric in pairs:
            measure = MEASURES[metric.measure]
            scores.warn(measure.check(len(images), real_count, extractors[metric.extractor].dimensions))
            if measure.rows[1] and stored is not None and stored.rows is None:
                raise ValueError(
                    f"{stored.path}: holds a mean and a covariance, but {':'.join(metric)} needs the features of every "
                    "picture; give the folder, or an .npz with 'feats'"
                )

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
        report(":".join(metric), 0, 0)
        scores.rows += distance_rows(
            metric, extractors[name], drawn[name].whole(), whole, in_halves, other_real, asked.seed
        )
    if floor_images is None and any(row.floor != row.floor for row in scores.rows):
        scores.warn([row.floor_of for row in scores.rows if row.floor != row.floor])


def _stored(path: Path, names: Sequence[str], scores: Scores) -> Reference:
    if len(names) > 1:
        raise ValueError(f"{path}: statistics are of one extractor, but the metrics need {', '.join(names)}; ask apart")
    stored = read_reference(path)
    about = {"path": str(path), "images": stored.count, **stored.about}
    scores.sets["against"] = about
    if not stored.about:
        scores.warn(
            [f"{path} does not say what made it: that extractor, resize and number of images fit is for you to know"]
        )
    return stored


def _save(path: Path, found: SetFeatures, extractor: Extractor, images: Images, features: bool) -> None:
    from lensbench.scoring.frechet import Moments

    both = Moments().merge(found.halves[0]).merge(found.halves[1])
    write_reference(path, both, extractor, images.digest, found.rows if features else None)


def _clip_score(asked: Asked, metric: Wanted, images: Images, scores: Scores, report: Report) -> None:
    from lensbench.scoring.clip_score import ClipScorer

    if asked.prompts is None:
        raise ValueError("CLIPScore needs the prompts: give them with --prompts FILE")
    prompts = asked.prompts(images)
    weights = asked.weights.get(metric.extractor, measures.EXTRACTORS[metric.extractor].weights)
    scorer = ClipScorer(weights, f"--weights {metric.extractor}", asked.device, asked.prefix)
    texts = [prompted.text for prompted in prompts]
    cut = scorer.too_long(texts)
    if cut.any():
        scores.warn(
            [
                f"CLIPScore {scorer.name}: {int(cut.sum()):,} of {len(cut):,} prompts are longer than its "
                f"{scorer.window} tokens and are cut, end-of-text kept; a CLIP with more positions reads them whole"
            ]
        )
    found = cosines(
        images,
        texts,
        scorer,
        batch=asked.batch,
        workers=asked.workers,
        report=lambda done, total: report(f"CLIPScore {scorer.name}", done, total),
    )
    outcomes = [
        asdict(prompted) | {"image": images.name(i), "cosine": float(found[i]), "cut": bool(cut[i])}
        for i, prompted in enumerate(prompts)
    ]
    first, *others = image_text_rows(scorer, found, cut, [prompted.cluster for prompted in prompts])
    scores.rows += [replace(first, details={**first.details, "outcomes": outcomes}), *others]
