"""What an evaluation and `lensbench score` can be asked for: measures of lensbench.metrics, on extractors by name.

What is asked for is a measure on an extractor, `fd:dinov2`, a published name for one, `fd_dinov2`, or a measure that
takes no extractor. What a number is called depends on the weights that were found: FID is the Frechet distance on the
Inception of 2015-12-05 with clean-fid's resize, and with anything else it is fd_<extractor>.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lensbench.metrics import MEASURES, Measure, Metric, metric

if TYPE_CHECKING:
    from lensbench.scoring.extractors import Extractor, Resize


class Wanted(NamedTuple):
    """What was asked for: a measure by its name and an extractor by its name, "" where the measure takes none."""

    measure: str
    extractor: str

    @property
    def word(self) -> str:
        """What asks for it."""
        return f"{self.measure}:{self.extractor}" if self.extractor else self.measure

    @property
    def known_as(self) -> str:
        """What asks for it, by its published name where it has one."""
        return next((word for word, wanted in published() if wanted == self), self.word)

    @property
    def of_sets(self) -> bool:
        """Whether it compares two sets of images, and is no score of single ones."""
        return MEASURES[self.measure].per == "set"

    @property
    def reads_texts(self) -> bool:
        """Whether it takes the images' texts."""
        return "prompts" in MEASURES[self.measure].needs


def published() -> Iterator[tuple[str, Wanted]]:
    """The published names, each with what it asks for."""
    for measure in MEASURES.values():
        for known in measure.published:
            yield known.word, Wanted(measure.name, known.extractor)


def parse(text: str, where: str = "--metrics") -> list[Wanted]:
    """What "fid,kid,prdc:dinov2" asks for; fd-dinov2 and clip-score are fd_dinov2 and clip_score. Raises ValueError,
    one line, naming what there is."""
    asked = []
    for word in (part.strip() for part in text.split(",")):
        name, colon, extractor = word.partition(":")
        name = name.replace("-", "_")
        asks_for = () if colon else (wanted for known, wanted in published() if known == name)
        wanted = next(iter(asks_for), Wanted(name, extractor))
        measure = MEASURES.get(wanted.measure)
        if measure is None or bool(measure.on) != bool(wanted.extractor):
            known = ", ".join(
                [*(word for word, _ in published()), *(one.name for one in MEASURES.values() if not one.on)]
            )
            of = ", ".join(one.name for one in MEASURES.values() if one.on)
            further = "" if where == "--metrics" else "; geneval and validation_loss"
            raise ValueError(
                f"{where}: no metric {word!r}; there are {known}, and MEASURE:EXTRACTOR of {of} and {_extractors()}"
                f"{further}"
            )
        if wanted.extractor and wanted.extractor not in EXTRACTORS:
            raise ValueError(f"{where}: no extractor {wanted.extractor!r} for {word!r}; there are {_extractors()}")
        if measure.on and not wanted.extractor.startswith(measure.on):
            fitting = ", ".join(name for name in EXTRACTORS if name.startswith(measure.on))
            raise ValueError(f"{where}: {word}: {measure.label} is measured on {fitting}")
        if wanted not in asked:
            asked.append(wanted)
    return asked


def metric_of(measure: str, extractor: str, part: str = "") -> Metric:
    """The metric of a measure, or a part of it, on an extractor (`Extractor.name`): a published one for the published
    thing alone."""
    for known in MEASURES[measure].published:
        if known.metric is not None and known.weights == extractor:
            return known.metric
    number = MEASURES[measure].numbers[part or measure]
    return number if isinstance(number, Metric) else metric(f"{part or measure}_{extractor}")


def may_be(name: str, wanted: Wanted) -> bool:
    """Whether a record of this name can come of what was asked for: how it is named in full the weights decide."""
    measure = MEASURES[wanted.measure]
    for known in measure.published:
        if known.extractor == wanted.extractor and known.metric is not None and known.metric.name == name:
            return True
    begins = wanted.extractor.partition("-")[0] if wanted.of_sets else ""  # the CLIP of a score: any
    return any(
        name == number.name if isinstance(number, Metric) else name.startswith(f"{part}_{begins}")
        for part, number in measure.numbers.items()
    )


def resolve(by: Callable[..., Any] | str) -> Callable[..., Any]:
    """The function that an entry names, imported now."""
    if not isinstance(by, str):
        return by
    module, _, name = by.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def check(measure: Measure, sampled: int | None, real: int | None, dimensions: int) -> list[str]:
    """What makes a number of so many images (None: not known), sampled and real, doubtful.

    Raises ValueError where it would mean nothing.
    """
    if measure.check:
        warnings: list[str] = resolve(measure.check)(sampled, real, dimensions)
        return warnings
    said = []
    for count, what in ((sampled, "drawn"), (real, "reference")):
        if count is not None and count < measure.fewest:
            raise ValueError(f"{count:,} {what} pictures: {measure.label} needs at least {measure.fewest:,}")
        if count is not None and count < measure.advised:
            said.append(
                f"{measure.label}: {count:,} {what} pictures; take {measure.advised:,} or more for a number to rely on"
            )
    return said


def register(name: str, extractor: Extractor) -> None:
    """Make an extractor of one's own known as `name`, so that `fd:name` can be asked for.

    Raises ValueError for a name that is taken, or one by which its numbers would pass for published ones.
    """
    if name in EXTRACTORS or not name or ":" in name or "," in name:
        raise ValueError(f"an extractor cannot be registered as {name!r}; taken are {_extractors()}")
    if extractor.name in {known.weights for measure in MEASURES.values() for known in measure.published}:
        raise ValueError(f"an extractor of your own cannot be named {extractor.name!r}, as a published one is")
    metric_of("fd", extractor.name)  # refuses what can be no part of a metric's name
    EXTRACTORS[name] = Opener(lambda weights, argument, device, resize: extractor, "")


# Extractors


class Opener(NamedTuple):
    """How an extractor is opened: (weights, the option that names them, device, resize), and which weights if none."""

    open: Callable[[str, str, str, Resize], Extractor]
    weights: str


def _inception(weights: str, argument: str, device: str, resize: Resize) -> Extractor:
    from lensbench.scoring.extractors import inception

    return inception(Path(weights) if weights else None, resize=resize, device=device)


def _dinov2(weights: str, argument: str, device: str, resize: Resize) -> Extractor:
    from lensbench.scoring.vision_models import DINOv2

    return DINOv2(weights, argument, device)


def _clip(weights: str, argument: str, device: str, resize: Resize) -> Extractor:
    from lensbench.scoring.vision_models import CLIPImages

    return CLIPImages(weights, argument, device)


def _shapes(weights: str, argument: str, device: str, resize: Resize) -> Extractor:
    import numpy as np
    import torch

    from lensbench.scoring.detectors import ShapesJudge
    from lensbench.scoring.extractors import FunctionExtractor
    from lensbench.scoring.judge_network import CANVAS_PX, FEATURES, to_canvas

    judge = ShapesJudge.load(Path(weights) if weights else None)

    def prepare(image: np.ndarray) -> np.ndarray:
        if image.shape[0] != image.shape[1]:
            raise ValueError(f"the shapes judge looks at squares, not at {image.shape[1]}x{image.shape[0]} pixels")
        return to_canvas(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)[0].numpy()

    def embed(prepared: np.ndarray) -> np.ndarray:
        return judge.features(torch.from_numpy(prepared))

    words = f"{CANVAS_PX} bicubic antialias float"
    return FunctionExtractor("shapes", judge.digest, embed, FEATURES, resize=words, prepare=prepare)


EXTRACTORS: dict[str, Opener] = {
    "inception": Opener(_inception, ""),
    "dinov2": Opener(_dinov2, "facebook/dinov2-large"),
    "clip-b32": Opener(_clip, "openai/clip-vit-base-patch32"),
    "clip-l14": Opener(_clip, "openai/clip-vit-large-patch14"),
    "clip-l14-336": Opener(_clip, "openai/clip-vit-large-patch14-336"),
    "clip-long": Opener(_clip, "zer0int/LongCLIP-L-Diffusers"),
    "shapes": Opener(_shapes, ""),
}


def open_extractor(name: str, weights: Mapping[str, str], device: str, resize: Resize) -> Extractor:
    """An extractor of the registry, with the weights given for it or its own. ValueError when they cannot be had."""
    opener = EXTRACTORS[name]
    return opener.open(weights.get(name, opener.weights), f"--weights {name}", device, resize)


def _extractors() -> str:
    return ", ".join(EXTRACTORS)
