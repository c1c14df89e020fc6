"""Values as MLflow takes them: datasets by their digests, parameters that are not too long."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

LONGEST = 250  # characters of a parameter's value that MLflow's loggers keep


def datasets(origin: dict[str, str], parameters: dict[str, str]) -> list[DatasetInput]:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    def dataset(name: str, digest: str, context: str) -> DatasetInput:
        source = json.dumps({"sha256": digest})
        # MLflow keeps 36 characters of a digest; the whole one is the source
        entity = Dataset(name=name, digest=digest[:36], source_type="lensbench", source=source)
        return DatasetInput(dataset=entity, tags=[InputTag("mlflow.data.context", context)])

    return [
        dataset(f"images: {parameters.get('corpus.kind', '?')}", origin["corpus_digest"], "images"),
        dataset(f"captions: {parameters.get('captions.set', '?')}", origin["captions_digest"], "captions"),
        dataset("prompts", origin["prompts_digest"], "evaluation"),
    ]


def cut(value: str) -> str:
    # said in the value itself, so that nobody takes the cut text for the whole; the file is among the artifacts
    note = " ... (cut; see experiment.json)"
    return value if len(value) <= LONGEST else value[: LONGEST - len(note)] + note
