"""What `lensbench score` can compute on images: the measures by name, and the extractors by theirs.

What can be asked for is a measure on an extractor, `fd:dinov2`, or a published name for one, `fd_dinov2`. What a number
is called depends on the weights that were found: FID is the Frechet distance on the Inception of 2015-12-05 with
clean-fid's resize, and with anything else it is fd_<extractor>. The names are those of lensbench.metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lensbench.metrics import Metric, metric
from lensbench.scoring.extractors import Extractor, FunctionExtractor, Resize, inception
from lensbench.scoring.feature_pass import Sample
from lensbench.scoring.neighbors import FEWEST

NAN = float("nan")


@dataclass(frozen=True)
class Value:
    """One number; `spread` is what `spread_of` says, NaN where there is none."""

    metric: Metric
    value: float
    spread: float = NAN
    spread_of: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    """A number or several from the features of two sets.

    `check` is given the numbers of images, drawn and real (None: not known), and of dimensions: it raises ValueError
    where the number would mean nothing and returns warnings. `rows` says whether the features themselves are needed,
    of the drawn images and of the real ones.
    """

    compute: Callable[[Sample, Sample, Callable[[str], Metric], int], list[Value]]
    check: Callable[[int | None, int | None, int], list[str]]
    rows: tuple[bool, bool]


class Wanted(NamedTuple):
    """What was asked for: a measure by its name and an extractor by its name."""

    measure: str
    extractor: str


def parse(text: str, where: str = "--metrics") -> list[Wanted]:
    """What "fid,kid,prdc:dinov2" asks for; fd-dinov2 and clip-score are fd_dinov2 and clip_score. Raises ValueError,
    one line, naming what there is."""
    asked = []
    for word in (part.strip() for part in text.split(",")):
        measure, colon, extractor = word.partition(":")
        measure = measure.replace("-", "_")
        wanted = Wanted(measure, extractor) if colon else PUBLISHED.get(measure)
        if wanted is None or (wanted.measure not in MEASURES and wanted.measure != CLIP_SCORE):
            known = ", ".join(PUBLISHED)
            further = "" if where == "--metrics" else "; geneval, shapes_alignment and validation_loss"
            raise ValueError(
                f"{where}: no metric {word!r}; there are {known}, and MEASURE:EXTRACTOR of {_all()}{further}"
            )
        if wanted.extractor not in EXTRACTORS:
            raise ValueError(f"{where}: no extractor {wanted.extractor!r} for {word!r}; there are {_extractors()}")
        if wanted.measure == CLIP_SCORE and not wanted.extractor.startswith("clip-"):
            raise ValueError(f"{where}: {word}: CLIPScore needs a CLIP, as in {CLIP_SCORE}:clip-l14")
        if wanted not in asked:
            asked.append(wanted)
    return asked


def metric_of(measure: str, extractor: str) -> Metric:
    """The metric of a measure on an extractor (`Extractor.name`): a published one for the published thing alone."""
    return metric(NAMES.get((measure, extractor), f"{measure}_{extractor}"))


def may_be(name: str, wanted: Wanted) -> bool:
    """Whether a record of this name can come of what was asked for: how it is named in full the weights decide."""
    if PUBLISHED.get(name) == wanted or NAMES.get((wanted.measure, wanted.extractor)) == name:
        return True
    measures = PARTS if wanted.measure == "prdc" else (wanted.measure,)
    return name.startswith(tuple(f"{measure}_{wanted.extractor.partition('-')[0]}" for measure in measures))


def register(name: str, extractor: Extractor) -> None:
    """Make an extractor of one's own known as `name`, so that `fd:name` can be asked for.

    Raises ValueError for a name that is taken, or one by which its numbers would pass for published ones.
    """
    if name in EXTRACTORS or not name or ":" in name or "," in name:
        raise ValueError(f"an extractor cannot be registered as {name!r}; taken are {_extractors()}")
    if extractor.name in {known for _, known in NAMES}:
        raise ValueError(f"an extractor of your own cannot be named {extractor.name!r}, as a published one is")
    metric_of("fd", extractor.name)  # refuses what can be no part of a metric's name
    EXTRACTORS[name] = Opener(lambda weights, argument, device, resize: extractor, "")


# Measures of two sets


def _frechet(drawn: Sample, real: Sample, name: Callable[[str], Metric], seed: int) -> list[Value]:
    from lensbench.scoring.frechet import frechet_distance

    return [Value(name("fd"), frechet_distance(drawn.mean, drawn.covariance, real.mean, real.covariance))]


def _frechet_infinity(drawn: Sample, real: Sample, name: Callable[[str], Metric], seed: int) -> list[Value]:
    from lensbench.scoring.extrapolation import frechet_infinity

    assert drawn.rows is not None
    found = frechet_infinity(drawn.rows, real.mean, real.covariance, seed=seed)
    details = {"fit": found._asdict() | {"points": len(found.sizes)}}
    return [Value(name("fd_infinity"), found.value, found.error, f"fit's SE; residual {found.residual:.3g}", details)]


def _kernel(drawn: Sample, real: Sample, name: Callable[[str], Metric], seed: int) -> list[Value]:
    from lensbench.scoring.kernel_distance import kernel_distance

    assert drawn.rows is not None
    assert real.rows is not None
    found = kernel_distance(drawn.rows, real.rows, seed=seed)
    spread_of = f"SD of {found.subsets} subsets of {found.subset_size:,}" if found.subsets > 1 else ""
    return [Value(name("kd"), found.value, found.spread, spread_of, found._asdict())]


def _mmd(drawn: Sample, real: Sample, name: Callable[[str], Metric], seed: int) -> list[Value]:
    from lensbench.scoring.kernel_distance import CMMD_SCALE, CMMD_SIGMA, cmmd

    assert drawn.rows is not None
    assert real.rows is not None
    return [Value(name("mmd"), cmmd(drawn.rows, real.rows), details={"sigma": CMMD_SIGMA, "scale": CMMD_SCALE})]


def _prdc(drawn: Sample, real: Sample, name: Callable[[str], Metric], seed: int) -> list[Value]:
    from lensbench.scoring.neighbors import DENSITY_K, PRECISION_K, neighborhoods

    assert drawn.rows is not None
    assert real.rows is not None
    found = neighborhoods(drawn.rows, real.rows)
    neighbors = {"precision": PRECISION_K, "recall": PRECISION_K, "density": DENSITY_K, "coverage": DENSITY_K}
    return [Value(name(part), value, details={"neighbors": neighbors[part]}) for part, value in found._asdict().items()]


def _enough_for_covariance(drawn: int | None, real: int | None, dimensions: int) -> list[str]:
    said = []
    for count, what in ((drawn, "drawn"), (real, "reference")):
        if count is not None and count <= dimensions // 4:
            raise ValueError(
                f"{count:,} {what} pictures for {dimensions:,} features: a Frechet distance would mean nothing; take "
                f"more than {dimensions:,}, or ask for kid or cmmd, which need fewer"
            )
        if count is not None and count <= dimensions:
            said.append(
                f"{count:,} {what} pictures for {dimensions:,} features: the covariance is singular and the distance "
                f"much too large; take more than {dimensions:,}, and compare at this number only"
            )
    return said


def _enough_to_extrapolate(drawn: int | None, real: int | None, dimensions: int) -> list[str]:
    from lensbench.scoring.extrapolation import fewest_images

    if drawn is not None and drawn < fewest_images(dimensions):
        raise ValueError(
            f"{drawn:,} drawn pictures for {dimensions:,} features: too few to extrapolate; draw at least "
            f"{fewest_images(dimensions):,}"
        )
    return _enough_for_covariance(None, real, dimensions)


def _at_least(fewest: int, why: str, advised: int) -> Callable[[int | None, int | None, int], list[str]]:
    def check(drawn: int | None, real: int | None, dimensions: int) -> list[str]:
        said = []
        for count, what in ((drawn, "drawn"), (real, "reference")):
            if count is not None and count < fewest:
                raise ValueError(f"{count:,} {what} pictures: {why} needs at least {fewest:,}")
            if count is not None and count < advised:
                said.append(f"{why}: {count:,} {what} pictures; take {advised:,} or more for a number to rely on")
        return said

    return check


MEASURES: dict[str, Measure] = {
    "fd": Measure(_frechet, _enough_for_covariance, (False, False)),
    "fd_infinity": Measure(_frechet_infinity, _enough_to_extrapolate, (True, False)),
    "kd": Measure(_kernel, _at_least(20, "a kernel distance", 1000), (True, True)),
    "mmd": Measure(_mmd, _at_least(20, "MMD", 1000), (True, True)),
    "prdc": Measure(_prdc, _at_least(FEWEST, "precision and recall", 1000), (True, True)),
}
PARTS = ("precision", "recall", "density", "coverage")  # that prdc measures
CLIP_SCORE = "clip_score"  # a measure of pictures and their prompts
PUBLISHED = {
    "fid": Wanted("fd", "inception"),
    "kid": Wanted("kd", "inception"),
    "fid_infinity": Wanted("fd_infinity", "inception"),
    "prdc": Wanted("prdc", "inception"),
    "fd_dinov2": Wanted("fd", "dinov2"),
    "cmmd": Wanted("mmd", "clip-l14-336"),
    "fd_shapes": Wanted("fd", "shapes"),
    "clip_score": Wanted(CLIP_SCORE, "clip-b32"),
}
# The published names, by the measure and `Extractor.name`; any other number is <measure>_<extractor>.
NAMES = {
    ("fd", "inception"): "fid",
    ("fd_infinity", "inception"): "fid_infinity",
    ("kd", "inception"): "kid",
    ("fd", "dinov2_vitl14"): "fd_dinov2",
    ("mmd", "clip_vit_l14_336"): "cmmd",
    ("fd", "shapes"): "fd_shapes",
}


# Extractors


class Opener(NamedTuple):
    """How an extractor is opened: (weights, the option that names them, device, resize), and which weights if none."""

    open: Callable[[str, str, str, Resize], Extractor]
    weights: str


def _inception(weights: str, argument: str, device: str, resize: Resize) -> Extractor:
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


def _all() -> str:
    return f"{', '.join([*MEASURES, CLIP_SCORE])} and {_extractors()}"
