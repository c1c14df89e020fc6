"""A score card: what one caption set gave at one scale, with everything needed to check it.

The card of the same captions on the same machine is the same to the byte but for `measured` (seconds, dollars), which
is no part of its hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from lensbench.metrics import GENEVAL, leading, ordered
from lensbench.metrics import metric as named
from lensbench.publishing import nan_to_null, publish_text
from lensbench.report.chance import NAN, UNKNOWN, Chance, chance_of
from lensbench.report.placing import design
from lensbench.scoring.statistics import stratified_mean

FORMAT = 1
DIGESTS = ("corpus_digest", "prompts_digest", "judge_digest", "text_encoder_digest", "autoencoder_digest")


@dataclass(frozen=True)
class Card:
    """`outcomes` has, for each form, task and seed, a 1 or 0 for each image in the order of (prompt, sample);
    `samples` says how many images each prompt of a task has. The points of `curves` that have judged images tell the
    `chance` of the score of all seeds there."""

    format: int
    scale: str
    version: int
    scale_digest: str
    name: str
    captions: dict[str, Any]  # the policy, its digest and what it is like
    seeds: list[int]
    cells: dict[str, str]  # seed -> hash of the experiment
    origin: dict[str, str]  # digests of corpus, prompts, judge, encoders
    made: dict[str, Any]  # commit, hardware, versions
    samples: dict[str, list[int]]  # task -> images of each prompt
    outcomes: dict[str, dict[str, dict[str, str]]]
    scores: list[dict[str, Any]]
    curves: list[dict[str, Any]]
    train_flops: float
    multiplier: list[dict[str, Any]]
    measured: dict[str, float]
    hash: str = ""

    def science(self) -> dict[str, Any]:
        """What the hash is of."""
        return {name: value for name, value in asdict(self).items() if name not in ("hash", "measured")}

    def sealed(self) -> Card:
        """The card with its hash."""
        return Card(**(asdict(self) | {"hash": _hash(self.science())}))

    @property
    def forms(self) -> list[str]:
        """The prompt forms it was asked in."""
        return list(self.outcomes)

    def values(self, form: str) -> dict[str, np.ndarray]:
        """Every judged image of a form: value, prompt (cluster), task and seed, each (N,), in one fixed order."""
        value, cluster, task, seed = [], [], [], []
        for name, by_seed in self.outcomes[form].items():
            clusters = np.repeat(np.arange(len(self.samples[name])), self.samples[name])
            for number, bits in by_seed.items():
                value += [float(bit) for bit in bits]
                cluster += clusters.tolist()
                task += [name] * len(bits)
                seed += [int(number)] * len(bits)
        return {"value": np.array(value), "cluster": np.array(cluster), "task": np.array(task), "seed": np.array(seed)}


def make(
    scale: Any,
    name: str,
    captions: dict[str, Any],
    records: Any,
    outcomes: Any,
    multiplier: Sequence[dict[str, Any]],
    versions: dict[str, str],
) -> Card:
    """The card of a scale's complete cells, from their records and outcomes (DataFrames with the column seed)."""
    last = records["step"].max()
    final = records[records["step"] == last]
    by_seed = {str(seed): rows for seed, rows in records.groupby("seed")}
    judged = outcomes[(outcomes["metric"] == "geneval") & (outcomes["step"] == last)]
    judged = judged.sort_values(["prompt_form", "task", "seed", "prompt_index", "sample"], kind="stable")
    samples, bits = _outcomes(judged)
    scores = _geneval_scores(judged) + _other_scores(final)
    return Card(
        format=FORMAT,
        scale=scale.name,
        version=scale.version,
        scale_digest=scale.digest,
        name=name,
        captions=captions,
        seeds=[int(seed) for seed in by_seed],
        cells={seed: str(rows["experiment_hash"].iloc[0]) for seed, rows in by_seed.items()},
        origin={column: _one(records, column) for column in DIGESTS if column in records},
        made={"commit": _one(records, "commit"), "hardware": _one(records, "hardware"), "versions": versions},
        samples=samples,
        outcomes=bits,
        scores=scores,
        curves=_curves(records, outcomes),
        train_flops=float(records["train_flops"].max()),
        multiplier=list(multiplier),
        measured={
            metric: float(rows["value"].sum())
            for metric, rows in final.groupby("metric")
            if named(metric).kind == "cost"
        },
    ).sealed()


def write(card: Card, path: Path) -> Path:
    """Write a card as JSON."""
    return publish_text(path, json.dumps(nan_to_null(asdict(card)), indent=1, sort_keys=True) + "\n")


def read(path: Path) -> Card:
    """A card. Raises ValueError, one line, when it is none, of another format, or was changed after it was sealed."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told.get("format") != FORMAT:
            raise ValueError(f"{path}: a card of format {told.get('format')!r}; this version reads {FORMAT}")
        names = {field.name for field in fields(Card)}
        if names != set(told):
            raise ValueError(f"{path}: no score card ({', '.join(sorted(names ^ set(told)))} missing or unknown)")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such card; lensbench bench CAPTIONS writes one") from None
    except (OSError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no score card ({error})") from None
    card = Card(**told)
    if (found := _hash(card.science())) != card.hash:
        raise ValueError(f"{path}: its hash is {card.hash[:12]}, that of its content {found[:12]}: it was changed")
    return card


def _outcomes(judged: Any) -> tuple[dict[str, list[int]], dict[str, dict[str, dict[str, str]]]]:
    samples: dict[str, list[int]] = {}
    bits: dict[str, dict[str, dict[str, str]]] = {}
    for (form, task, seed), rows in judged.groupby(["prompt_form", "task", "seed"], sort=True):
        counts = [int(n) for n in rows.groupby("prompt_index", sort=True).size()]
        assert samples.setdefault(str(task), counts) == counts, "every seed and form has the same images"
        text = "".join("1" if value else "0" for value in rows["value"])
        bits.setdefault(str(form), {}).setdefault(str(task), {})[str(seed)] = text
    return samples, bits


def _geneval_scores(judged: Any) -> list[dict[str, Any]]:
    found = []
    for form, rows in judged.groupby("prompt_form", sort=True):
        for task in [None, *sorted(set(rows["task"]))]:
            some = rows if task is None else rows[rows["task"] == task]
            columns = (some[name].to_numpy() for name in ("value", "prompt_index", "task", "seed"))
            mean = stratified_mean(*columns)
            metric = "geneval" if task is None else f"geneval.{task}"
            score = _score(metric, str(form), mean.estimate, mean.low, mean.high, len(some))
            found.append(score | _chance(some))
    return found


def _chance(judged: Any) -> dict[str, Any]:
    """What is known of the chance of a score, as `chance_in` reads it; nothing without a chance of every image."""
    if "chance" not in judged:
        return {}
    values, chances = (judged[name].to_numpy(float) for name in ("value", "chance"))
    found = chance_of(values, chances, judged["task"].to_numpy(), design(judged))
    return {"chance": asdict(found)} if found.known else {}


def chance_in(score: Mapping[str, Any]) -> Chance:
    """The chance of a card's score, unknown in cards of before."""
    told = score.get("chance")
    return UNKNOWN if told is None else Chance(**{name: NAN if x is None else x for name, x in told.items()})


def _other_scores(final: Any) -> list[dict[str, Any]]:
    """The mean over seeds, between the lowest and the highest of them."""
    found = []
    scores = [name for name in ordered(set(final["metric"])) if named(name).is_score and named(name).outcome != GENEVAL]
    for metric in sorted(scores, key=lambda name: bool(named(name).variant_of)):  # other settings of one come last
        for form, rows in final[final["metric"] == metric].groupby("prompt_form", sort=True):
            values = rows["value"].astype(float)
            found.append(_score(metric, str(form), values.mean(), values.min(), values.max(), len(values)))
    return found


def _score(metric: str, form: str, value: float, low: float, high: float, n: int) -> dict[str, Any]:
    told = {"metric": metric, "form": form, "value": float(value), "low": float(low), "high": float(high), "n": n}
    return told | {"interval": "95%" if named(metric).outcome == GENEVAL else "seeds"}


def _curves(records: Any, outcomes: Any) -> list[dict[str, Any]]:
    """Every score that was taken along training, for each seed; of GenEval its mean alone, with its chance."""
    steps = records.groupby("metric")["step"].nunique()
    along = [name for name in leading(set(records["metric"])) if steps[name] > 1]
    rows = records[records["metric"].isin(along)].sort_values(["metric", "prompt_form", "seed", "step"], kind="stable")
    names = {"metric": "metric", "prompt_form": "form", "seed": "seed", "step": "step", "value": "value"}
    names |= {"samples_seen": "samples_seen", "train_flops": "train_flops"}
    judged = outcomes[outcomes["metric"] == GENEVAL].groupby(["prompt_form", "step"])
    chances = {(GENEVAL, *place): _chance(images) for place, images in judged}
    found = [{new: _number(row[old]) for old, new in names.items()} for row in rows.to_dict("records")]
    return [row | chances.get((row["metric"], row["form"], row["step"]), {}) for row in found]


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _one(records: Any, column: str) -> str:
    found = sorted({str(value) for value in records[column].dropna()} - {""})
    return ", ".join(found)


def _hash(science: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(nan_to_null(science), sort_keys=True, separators=(",", ":")).encode()).hexdigest()
