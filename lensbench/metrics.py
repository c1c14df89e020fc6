"""The one registry of numbers: every metric, fact and cost that a record can hold, what is known and what makes it.

    from lensbench.metrics import metric
    metric("fid").direction  # "less"

A score of images is one entry here, a `Measure` (`register_measure`), beside the function that it names. An evaluation,
`lensbench score` and `plan` walk the entries, and so do tables, pages and MLflow. Numbers that are made otherwise,
facts and costs are registered alone, or as a family: the names of one number on many scales or tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lensbench.registry import (
    FAMILIES,
    MEASURES,
    REGISTRY,
    SCORED,
    Kind,
    Measure,
    Metric,
    Need,
    Published,
    is_known,
    leading,
    metric,
    of_kind,
    ordered,
    register,
    register_family,
    register_measure,
)

__all__ = [
    "CHOOSING",
    "FAMILIES",
    "GENEVAL",
    "GUIDED",
    "MEASURES",
    "REGISTRY",
    "SCORED",
    "Kind",
    "Measure",
    "Metric",
    "Need",
    "Published",
    "is_known",
    "leading",
    "metric",
    "of_kind",
    "ordered",
    "register",
    "register_family",
    "register_measure",
]

GENEVAL = "geneval"
GUIDED = "geneval_guided"  # GenEval's verdicts at other guidance scales than the evaluation's own
CHOOSING = "geneval_choosing"  # GenEval's verdicts on the prompts that the guidance is chosen on, at every scale
DISTANCES = "lensbench.scoring.distances"  # the module of the measures of two sets


def _needs(*names: Need) -> frozenset[Need]:
    return frozenset(names)


# What is registered. The order is the one in which scores are shown.

_TASKS = {  # heads of columns, in full and where room is scarce
    "single_object": ("single", "single"),
    "two_object": ("two", "two"),
    "counting": ("counting", "count"),
    "colors": ("colors", "colors"),
    "position": ("position", "pos."),
    "color_attr": ("color attr.", "attr."),
}


def _geneval(name: str, label: str, **further: object) -> Metric:
    told: dict[str, object] = {
        "kind": "score",
        "per": "image",
        "direction": "more",
        "unit": "%",
        "digits": 1,
        "factor": 100.0,
        "outcome": GENEVAL,
        "clusters": "prompt",
        "bounded": True,
        "needs": _needs("prompts", "judge"),
    }
    return Metric(name=name, label=label, **(told | further))  # type: ignore[arg-type]


def _of_task(task: str) -> Metric:
    head, short = _TASKS.get(task, (task.replace("_", " "),) * 2)
    of = {"head": head, "short": short, "only": ("task", task), "variant_of": GENEVAL}
    return _geneval(f"{GENEVAL}.{task}", f"GenEval {head}", **of)


def _of_guidance(outcome: str, label: str, scale: str) -> Metric:
    try:
        guidance = float(scale)
    except ValueError:
        raise ValueError(f"{outcome}.{scale}: a metric at a guidance scale ends in a number") from None
    of = {"outcome": outcome, "only": ("guidance", guidance), "variant_of": GENEVAL, "strata": "task"}
    return _geneval(f"{outcome}.{scale}", f"{label}, guidance {scale}", **of)


def _distance(name: str, label: str, digits: int = 2, **further: object) -> Metric:
    told: dict[str, object] = {"needs": _needs("weights", "reference"), **further}
    return Metric(name=name, label=label, kind="distance", per="set", direction="less", digits=digits, **told)  # type: ignore[arg-type]


def _on_any(part: str, label: str, digits: int = 2) -> dict[str, Callable[[str], Metric]]:
    """A distance by this name on any extractor."""
    return {part: lambda of: _distance(f"{part}_{of}", f"{label} {of}", digits)}


def _share(part: str, bounded: bool) -> Callable[[str], Metric]:
    """Precision and its kin on any extractor: how the samples and the reference cover each other."""
    return lambda of: Metric(
        name=f"{part}_{of}",
        label=f"{part} {of}",
        kind="score",
        per="set",
        direction="more",
        digits=3,
        bounded=bounded,
        needs=_needs("weights", "reference"),
    )


def _clip(
    part: str, label: str, ends: str, digits: int, most: float, least: float | None = None
) -> Callable[[str], Metric]:
    """CLIPScore as one of its conventions has it, on any CLIP."""
    return lambda clip: Metric(
        name=f"{part}_{clip}",
        label=f"{label} {clip}{ends}",
        kind="score",
        per="image",
        direction="more",
        digits=digits,
        outcome=f"{part}_{clip}",
        clusters="prompt",
        most=most,
        least=least,
        needs=_needs("weights", "prompts"),
    )


def _fact(name: str, label: str, unit: str = "", digits: int = 0, factor: float = 1.0) -> None:
    register(Metric(name=name, label=label, kind="fact", per="run", unit=unit, digits=digits, factor=factor))


def _cost(name: str, label: str, unit: str, digits: int = 0) -> None:
    register(Metric(name=name, label=label, kind="cost", per="run", unit=unit, digits=digits))


register(_geneval(GENEVAL, "GenEval", head="mean", strata="task"))
register_family(f"{GENEVAL}.", _of_task)
for _task in _TASKS:
    register(_of_task(_task))
register_family(f"{GUIDED}.", partial(_of_guidance, GUIDED, "GenEval"))
register_family(f"{CHOOSING}.", partial(_of_guidance, CHOOSING, "GenEval on the choosing prompts"))
register_measure(
    Measure(
        name="clip_score",
        label="CLIPScore",
        per="image",
        opens="lensbench.scoring.clip_score:open_clip",
        on=("clip-",),
        numbers={
            "clip_score_100": _clip("clip_score_100", "CLIPScore", " x100", 2, 100.0, least=0.0),  # torchmetrics
            "clip_score_2.5": _clip("clip_score_2.5", "CLIPScore", " x2.5", 3, 2.5),  # its paper
            "clip_cosine": _clip("clip_cosine", "CLIP cosine", "", 4, 1.0),
        },
        published=(Published("clip_score", "clip-b32"),),
    )
)
register_measure(
    Measure(
        name="fd",
        label="a Frechet distance",
        per="set",
        by=f"{DISTANCES}:frechet",
        check=f"{DISTANCES}:enough_for_covariance",
        on=("",),
        rows=(False, False),
        biased=True,  # by about 1 / N
        numbers=_on_any("fd", "FD"),
        published=(
            Published("fid", "inception", "inception", _distance("fid", "FID")),
            Published("fd_dinov2", "dinov2", "dinov2_vitl14", _distance("fd_dinov2", "FD-DINOv2")),
            Published(
                "fd_shapes",
                "shapes",
                "shapes",
                _distance("fd_shapes", "FD-shapes", needs=_needs("judge", "reference"), own=True),
            ),
        ),
    )
)
register_measure(
    Measure(
        name="fd_infinity",
        label="a Frechet distance of infinitely many images",
        per="set",
        by=f"{DISTANCES}:frechet_of_infinitely_many",
        check=f"{DISTANCES}:enough_to_extrapolate",
        on=("",),
        rows=(True, False),
        numbers=_on_any("fd_infinity", "FD-infinity"),
        published=(Published("fid_infinity", "inception", "inception", _distance("fid_infinity", "FID-infinity")),),
    )
)
register_measure(
    Measure(
        name="kd",
        label="a kernel distance",
        per="set",
        by=f"{DISTANCES}:kernel",
        fewest=20,
        advised=1000,
        on=("",),
        numbers=_on_any("kd", "KD", 4),
        published=(Published("kid", "inception", "inception", _distance("kid", "KID", 4)),),
    )
)
register_measure(
    Measure(
        name="mmd",
        label="MMD",
        per="set",
        by=f"{DISTANCES}:mmd",
        fewest=20,
        advised=1000,
        on=("",),
        numbers=_on_any("mmd", "MMD", 3),
        published=(Published("cmmd", "clip-l14-336", "clip_vit_l14_336", _distance("cmmd", "CMMD", 3)),),
    )
)
register_measure(
    Measure(
        name="prdc",
        label="precision and recall",
        per="set",
        by=f"{DISTANCES}:neighborhoods",
        fewest=6,  # a neighborhood reaches to the fifth neighbor: lensbench.scoring.neighbors
        advised=1000,
        on=("",),
        numbers={
            "precision": _share("precision", True),
            "recall": _share("recall", True),
            "density": _share("density", False),
            "coverage": _share("coverage", True),
        },
        published=(Published("prdc", "inception"),),
    )
)
register_measure(
    Measure(
        name="shapes_alignment",
        label="shapes-alignment",
        per="image",
        opens="lensbench.scoring.image_scores:open_shapes",
        on=("shapes",),
        numbers={
            "shapes_alignment": Metric(
                name="shapes_alignment",
                label="shapes-alignment",
                kind="score",
                per="image",
                direction="more",
                digits=3,
                outcome="shapes_alignment",
                clusters="prompt",
                needs=_needs("judge", "prompts"),
                own=True,  # without `most`: the right image's cosine is far from 1, so there is no error of it
            )
        },
        published=(Published("shapes_alignment", "shapes"),),
    )
)
register(
    Metric(
        name="validation_loss",
        label="validation loss",
        kind="loss",
        per="image",
        direction="less",
        outcome="validation_loss",
        clusters="prompt",
        needs=_needs("reference", "prompts"),
        own=True,
    )
)
_fact("training_images", "training images")
_fact("dropped_images", "dropped images")
_fact("set_aside_images", "unreadable images")
_fact("truncated_captions", "captions cut")
_fact("caption_tokens", "tokens a caption", digits=1)
_fact("images_per_second", "training images a second", digits=1)
_fact("peak_flops_share", "share of peak FLOPs", "%", 1, 100.0)
_fact("data_wait_share", "share of time waiting for data", "%", 1, 100.0)
_fact("padding", "padding of captions", "%", 1, 100.0)
_fact("peak_memory_bytes", "peak memory", "GiB", 2, 2.0**-30)
_cost("train_seconds", "training", "s")
_cost("cell_seconds", "training and scoring", "s")
_cost("device_hours", "device-hours", "h", 2)
_cost("cost_usd", "cost", "$", 2)
_cost("energy_kwh", "energy", "kWh", 3)
_cost("energy_kwh_estimated", "energy, estimated", "kWh", 3)
