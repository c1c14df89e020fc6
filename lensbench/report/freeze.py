"""The frozen copy of a sweep's results: everything that tables, figures and the paper are made of, and its checks.

    records.parquet      one row a number          outcomes.parquet     one row a judged image
    experiments.json     the science of every cell of the sweep, and its hash, whether the cell is there or not
    captions.json        statistics of the captions that the arms are trained on
    provenance.json      commits, digests, versions, hardware, cost, captioners, which cells are missing, and the
                         sha256 of the files above

Nothing in it depends on the clock or on where the runs lie: the same runs give the same bytes. Pictures are not frozen
but for the sheets of a report, which show the first prompts of each task.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lensbench.captions.quality import Accuracy, CaptionStatistics, Lengths
from lensbench.experiment import DIRECTORY_DIGITS, Autoencoder, Experiment, Model, TextEncoder, sha256_of
from lensbench.metrics import of_kind
from lensbench.publishing import publish_text
from lensbench.records import OUTCOME_KEY, read, write
from lensbench.records import OUTCOMES as OUTCOME_SCHEMA
from lensbench.records import RECORDS as RECORD_SCHEMA
from lensbench.report.captions import CaptionReport

if TYPE_CHECKING:
    from lensbench.sweep.sweep import Cell, Results

RECORDS, OUTCOMES = RECORD_SCHEMA.file, OUTCOME_SCHEMA.file
PROVENANCE, EXPERIMENTS, CAPTIONS = "provenance.json", "experiments.json", "captions.json"
FILES = (RECORDS, OUTCOMES, EXPERIMENTS, CAPTIONS, PROVENANCE)
OF = ("corpus", "captions", "prompts", "judge", "text_encoder", "autoencoder")
DIGESTS = (*(f"{name}_digest" for name in OF), "commit", "hardware")
DIRTY = "-dirty"
SCHEMA = 2  # of frozen files: 2 since evaluations have hashes of their own
STEERING = re.compile(r"\\u00(?:0[0-8b-f]|1[0-9a-f]|7f|[89][0-9a-f])|[\x7f-\x9f]")  # ESC and its kin, as JSON has them


@dataclass(frozen=True)
class Frozen:
    """Results with all that a report tells about them."""

    results: Results
    provenance: dict[str, Any]
    sciences: dict[str, dict[str, Any]]  # cell -> the science of its training and (first) evaluation
    parameters: dict[str, int]  # cell -> parameters of its denoiser
    captions: CaptionReport | None
    changed: tuple[str, ...] = ()  # files that are not as they were frozen, or are gone

    @property
    def schema(self) -> int:
        """Of the frozen files. Up to 1 a cell was named by its training and evaluation together."""
        return int(self.provenance.get("schema", 1))

    def hash_of(self, cell: str) -> str:
        """The hash that the cell's records name, by its frozen science."""
        science = self.sciences[cell]
        return sha256_of({k: v for k, v in science.items() if self.schema == 1 or k != "evaluation"})

    @property
    def evaluation(self) -> dict[str, Any]:
        """The evaluation part of the experiments, without what is a factor."""
        return dict(self.provenance.get("evaluation", {}))


def freeze(
    results: Results,
    folder: Path,
    runs: Path,
    cells: Iterable[Cell] | None = None,
    captions: CaptionReport | None = None,
) -> list[Path]:
    """Write the frozen copy of `results` into `folder`, and return every path written.

    `cells` are those of the sweep, all of them; without them, the experiments are read from `runs`. What neither says
    (the runs are gone) stays as an earlier copy in `folder` has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    earlier = _read_json(folder / PROVENANCE)
    there = sorted({str(cell) for cell in results.records["cell"].unique()})
    experiments = _experiments(runs, there) if cells is None else {cell.id: cell.experiment for cell in cells}
    written = [
        write(_sorted(results.records), folder / RECORDS, RECORD_SCHEMA),
        write(_sorted(results.outcomes), folder / OUTCOMES, OUTCOME_SCHEMA),
    ]
    if experiments:
        written.append(publish_text(folder / EXPERIMENTS, _told(experiments)))
        evaluation = next(iter(experiments.values())).evaluation.model_dump(mode="json")
        evaluation = {name: told for name, told in evaluation.items() if f"evaluation.{name}" not in results.factors}
    else:
        evaluation = earlier.get("evaluation", {})
        written += [folder / EXPERIMENTS] if (folder / EXPERIMENTS).is_file() else []
    if captions is not None:
        written.append(
            publish_text(folder / CAPTIONS, json.dumps(captions_told(captions), separators=(",", ":")) + "\n")
        )
    elif (folder / CAPTIONS).is_file():
        written.append(folder / CAPTIONS)
    versions = _versions(runs, there) or earlier.get("versions", {})
    captioners = _captioners(experiments.values()) if experiments else earlier.get("captioners", [])
    files = {path.name: _sha256_of(path) for path in sorted(written)}
    provenance = _provenance(results, evaluation, versions, captioners, files)
    written.append(publish_text(folder / PROVENANCE, provenance))
    return written


def refuse_another(folder: Path, cells: Iterable[Cell]) -> None:
    """Raise ValueError, one line, where a folder holds the results of a sweep that shares no cell with these."""
    told = _read_json(folder / PROVENANCE)
    there = {*told.get("cells", []), *(str(row.get("cell")) for row in told.get("missing", []))}
    if int(told.get("schema", 1)) > 1 and there and not there & {cell.id for cell in cells}:
        raise ValueError(
            f"{folder}: holds the results of another sweep of this name, or of this one before its recipe changed; "
            "name one of them otherwise, give another folder for the results, or move this one away"
        )


def open_frozen(folder: Path) -> Frozen:
    """The frozen copy in a folder. Raises ValueError where the folder holds none, or one that cannot be read."""
    results = load(folder)
    provenance = _read_json(folder / PROVENANCE)
    frozen = provenance.get("files", {})  # earlier versions did not note them
    changed = tuple(name for name, digest in frozen.items() if _sha256_of(folder / name) != digest)
    experiments = _read_json(folder / EXPERIMENTS)
    captions = _read_json(folder / CAPTIONS)
    with _as_a_freeze_writes_it(folder / EXPERIMENTS):
        told = experiments.get("cells", {})
        sciences = {cell: _changed(experiments["base"], of["changes"]) for cell, of in told.items()}
        parameters = {cell: int(of["parameters"]) for cell, of in told.items()}
    with _as_a_freeze_writes_it(folder / CAPTIONS):
        about = captions_from(captions) if captions else None
    return Frozen(results, provenance, sciences, parameters, about, changed)


def load(folder: Path) -> Results:
    """The results that were frozen in a folder. Raises ValueError when the folder holds none."""
    from lensbench.sweep.sweep import Results

    if not (folder / PROVENANCE).is_file():
        raise ValueError(f"{folder}: no {PROVENANCE}; give a folder that lensbench report or results freeze wrote")
    try:
        records, outcomes = (
            read(folder / schema.file, schema, frozen=True) for schema in (RECORD_SCHEMA, OUTCOME_SCHEMA)
        )
    except ValueError as error:
        raise ValueError(f"{folder}: {error}; freeze the results again") from None
    told = _read_json(folder / PROVENANCE)
    if STEERING.search((folder / PROVENANCE).read_text(encoding="utf-8")):
        raise ValueError(f"{folder / PROVENANCE}: holds characters that steer a terminal, which no freeze writes")
    if lacking := [name for name in ("sweep", "factors", "reference", "missing", "notes") if name not in told]:
        raise ValueError(f"{folder / PROVENANCE}: it does not say {lacking[0]!r}; freeze the results again")
    return results_of(told, records, outcomes, Results)


def results_of(told: Mapping[str, Any], records: pd.DataFrame, outcomes: pd.DataFrame, kind: type[Results]) -> Results:
    """Results from their provenance and their frames."""
    return kind(
        sweep_name=told["sweep"],
        factors=told["factors"],
        reference=told["reference"],
        records=records,
        outcomes=outcomes,
        missing=told["missing"],
        notes=told["notes"],
        questions=told.get("questions", []),
        tuning=told.get("tuning", {}),
    )


def commits_of(records: pd.DataFrame) -> list[str]:
    """The commits that records are of, sorted."""
    return sorted({str(value) for value in records["commit"].dropna().unique()} - {""}) if "commit" in records else []


def changes(before: Mapping[str, Any], after: Mapping[str, Any], under: str = "") -> dict[str, Any]:
    """Every dotted field in which two sciences differ -> its later value; None where it is gone."""
    found: dict[str, Any] = {}
    for name in [*before, *(name for name in after if name not in before)]:
        old, new = before.get(name), after.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found |= changes(old, new, f"{under}{name}.")
        elif old != new:
            found[f"{under}{name}"] = new
    return found


def captions_told(report: CaptionReport) -> dict[str, Any]:
    """A caption report as JSON, without loss."""
    found = {}
    for name, one in report.found.items():
        told = {key: value for key, value in vars(one).items() if key not in ("words", "tokens", "accuracy")}
        told |= {key: getattr(one, key).counts.tolist() for key in ("words", "tokens")}
        found[name] = told | {"accuracy": one.accuracy._asdict() if one.accuracy is not None else None}
    encoder = report.encoder.model_dump(mode="json")
    if not report.encoder.published:  # the name is enough; where it lies is nobody else's business
        encoder["model"] = Path(report.encoder.model).name
    return {"about": report.about, "encoder": encoder, "found": found}


def captions_from(told: Mapping[str, Any]) -> CaptionReport:
    """What `captions_told` told."""
    found = {}
    for name, one in told["found"].items():
        lengths = {key: Lengths(np.array(one[key], dtype=np.int64)) for key in ("words", "tokens")}
        accuracy = Accuracy(**one["accuracy"]) if one["accuracy"] is not None else None
        vocabulary = tuple((int(words), int(distinct)) for words, distinct in one["vocabulary"])
        found[name] = CaptionStatistics(**{**one, **lengths, "accuracy": accuracy, "vocabulary": vocabulary})
    return CaptionReport(told["about"], TextEncoder.model_validate(told["encoder"]), found)


def named(experiment: Experiment, schema: int) -> str:
    """The name of an experiment's cell in frozen files of this schema."""
    return experiment.cell_id() if schema > 1 else experiment.hash_with_evaluation()[:DIRECTORY_DIGITS]


def is_complete(folder: Path) -> bool:
    """Whether a folder holds the report of a sweep from which no cell was missing."""
    try:
        told = _read_json(folder / PROVENANCE)
    except ValueError:
        return False
    return told.get("missing") == []


def _told(experiments: Mapping[str, Experiment]) -> str:
    """Every experiment as what it changes of the first, with its hash and the size of its denoiser."""
    every = dict(experiments.items())
    base = next(iter(every.values())).science()
    lines = []
    for cell, experiment in every.items():
        told = {
            "hash": experiment.hash(),
            "evaluation": experiment.evaluation_hash(),
            "changes": changes(base, experiment.science()),
        }
        lines.append(f'  "{cell}": {json.dumps(told | {"parameters": _parameters(experiment)})}')
    cells = ",\n".join(lines)
    return f'{{\n "base": {json.dumps(base)},\n "cells": {{\n{cells}\n }}\n}}\n'


def _parameters(experiment: Experiment) -> int:
    return _counted(experiment.model, experiment.text_encoder, experiment.autoencoder)


@cache
def _counted(model: Model, text_encoder: TextEncoder, autoencoder: Autoencoder) -> int:
    from lensbench.model.sizes import denoiser_config, parameter_count

    parts = {"model": model, "text_encoder": text_encoder, "autoencoder": autoencoder}
    return parameter_count(denoiser_config(Experiment().model_copy(update=parts), text_encoder.width))


def _experiments(runs: Path, cells: Iterable[str]) -> dict[str, Experiment]:
    found = {}
    for cell in cells:
        path = runs / cell / "experiment.json"
        if path.is_file():
            found[cell] = Experiment.stored(path.read_text())
    return found


def _versions(runs: Path, cells: Iterable[str]) -> dict[str, list[str]]:
    """package -> the versions that the cells ran with."""
    found: dict[str, set[str]] = {}
    for cell in cells:
        try:
            told = _read_json(runs / cell / "versions.json")
        except ValueError as error:
            why = str(error).partition(";")[0]
            raise ValueError(f"{why}; delete it, and the report does without this cell's versions") from None
        for name, version in told.items():
            # of a thawed cell it is known only what all cells that were frozen with it ran with
            found.setdefault(name, set()).update([version] if isinstance(version, str) else version)
    return {name: sorted(versions) for name, versions in sorted(found.items())}


def _captioners(experiments: Iterable[Experiment]) -> list[dict[str, Any]]:
    """Who wrote the caption sets of imported corpora, how they were asked and what was paid."""
    from lensbench.captioner.prompts import open_prompt, prompt_names
    from lensbench.captions.store import caption_sets

    prompts = {prompt.version: prompt for prompt in map(open_prompt, prompt_names())}
    wanted: dict[tuple[Path, str], None] = {}
    for experiment in experiments:
        if experiment.corpus.kind == "folder":
            wanted |= dict.fromkeys((experiment.corpus.path, name) for name in experiment.corpus.caption_sets)
    found = []
    for folder in dict.fromkeys(folder for folder, _ in wanted):
        for one in caption_sets(folder):
            if (folder, one.name) not in wanted:
                continue
            told = {"set": one.name, **one.maker._asdict(), "captions": one.counts(), "digest": one.digest()}
            tokens = one.table(["input_tokens", "output_tokens"]).to_pandas().sum()
            told |= {"cost_usd": one.cost_usd()} | {name: int(tokens[name]) for name in tokens.index}
            if prompt := prompts.get(one.maker.prompt_version):
                told |= {"system": prompt.system, "user": prompt.user}
            found.append(told)
    return found


def _provenance(
    results: Results,
    evaluation: dict[str, Any],
    versions: dict[str, list[str]],
    captioners: list[dict[str, Any]],
    files: dict[str, str | None],
) -> str:
    records = results.records
    found = {
        name: sorted({str(v) for v in records[name].dropna().unique()} - {""}) for name in DIGESTS if name in records
    }
    of_cells = records.sort_values("step", kind="stable")
    cost: dict[str, float] = {}
    for name in (spent.name for spent in of_kind("cost")):
        counted = ["cell", "evaluation_hash"] if "evaluation_hash" in of_cells and name != "train_seconds" else ["cell"]
        rows = of_cells[of_cells["metric"] == name].drop_duplicates(counted, keep="last").sort_values("cell")
        if len(rows):
            cost[name] = float(rows["value"].sum())
    if len(records):
        cost["train_flops"] = float(records.groupby("cell")["train_flops"].max().sort_index().sum())
    told = {
        **({"schema": SCHEMA} if "evaluation_hash" in records else {}),  # without: results of before, frozen again
        "sweep": results.sweep_name,
        "factors": results.factors,
        "reference": results.reference,
        "evaluation": evaluation,
        "cells": sorted({str(cell) for cell in records["cell"].unique()}),
        "missing": results.missing,
        "notes": results.notes,
        **({"questions": results.questions} if results.questions else {}),
        **({"tuning": results.tuning} if results.tuning else {}),
        **found,
        "dirty": any(commit.endswith(DIRTY) for commit in found.get("commit", [])),
        "versions": versions,
        "cost": cost,
        "captioners": captioners,
        "files": files,
    }
    return json.dumps(told, indent=1, default=str) + "\n"


def _sha256_of(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame in an order that does not depend on how the cells were read."""
    order = [name for name in OUTCOME_KEY if name in frame]
    return frame.sort_values(order, kind="stable", ignore_index=True) if len(frame) else frame


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no file. ValueError, one line, for a file that is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ValueError(f"{path}: it cannot be read ({error.strerror}); make it readable, or freeze again") from None
    except ValueError as error:
        raise ValueError(f"{path}: no JSON ({error}); freeze the sweep again") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: no JSON object; freeze the sweep again")
    return found


@contextmanager
def _as_a_freeze_writes_it(path: Path) -> Iterator[None]:
    """ValueError, one line, where what was read of a file is not of the form that a freeze gives it."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(f"{path}: not what a freeze writes; take the committed file again, or freeze again") from None


def _changed(base: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """A science with dotted fields changed, those that are None taken out."""
    out: dict[str, Any] = json.loads(json.dumps(base))
    for dotted, value in told.items():
        *parents, leaf = dotted.split(".")
        node = out
        for parent in parents:
            node = node.setdefault(parent, {})
        if value is None:
            node.pop(leaf, None)
        else:
            node[leaf] = value
    return out
