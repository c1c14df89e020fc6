"""One cell, from an experiment to its records: encode the texts, train, score every checkpoint, write the files.

The directory is the truth. `records.parquet` is written last and in one step: a cell is complete when it exists.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lensbench import ranks, spool
from lensbench.captions.texts import arm_digest, training_texts
from lensbench.data.buckets import Size
from lensbench.data.corpus import open_corpus
from lensbench.data.features import OnlineFeatures, TextFeatures, encode_texts, text_rows
from lensbench.data.latents import Latents, encode_images, image_rows, online_images
from lensbench.data.rowstore import Cost, shown
from lensbench.data.sized import encode_sizes
from lensbench.experiment import Autoencoder as AutoencoderConfig
from lensbench.experiment import Evaluation, Experiment
from lensbench.experiment import TextEncoder as TextEncoderConfig
from lensbench.model.autoencoder import Autoencoder, open_autoencoder
from lensbench.model.checkpoint import load
from lensbench.model.sizes import denoiser_config
from lensbench.model.text_encoder import TextEncoder, open_text_encoder
from lensbench.publishing import publish, publish_once
from lensbench.scoring.detecting import open_detector
from lensbench.scoring.detectors import ShapesJudge
from lensbench.scoring.evaluate import Plan, Scores, plan, score
from lensbench.scoring.geneval_folder import Judge
from lensbench.sweep import srun
from lensbench.sweep.amounts import flops_per_image
from lensbench.sweep.cost import Counter, counting, rate_given, spent
from lensbench.sweep.looking import Amount, look
from lensbench.sweep.progress import Progress, Stage
from lensbench.sweep.provenance import commit, hardware, versions
from lensbench.sweep.vitals import telling
from lensbench.training import files
from lensbench.training.datamodule import TrainingBatches
from lensbench.training.run import scoring_steps, train

Report = Callable[[Progress], None]

WORTH_TELLING = 10**9  # bytes that a cell writes for its features

# Corpora and encoders serve many cells of one process.
corpus_of = functools.lru_cache(maxsize=4)(open_corpus)


@functools.lru_cache(maxsize=2)
def encoder_of(config: TextEncoderConfig) -> TextEncoder:
    """The text encoder of a cell. Raises ValueError for other weights than the published ones that are not pinned."""
    encoder = open_text_encoder(config)
    _refuse_unpinned("text_encoder", config, encoder.digest)
    return encoder


@functools.lru_cache(maxsize=2)
def autoencoder_of(config: AutoencoderConfig, patch_size: int) -> Autoencoder:
    """The autoencoder of a cell. Raises ValueError for other weights than the published ones that are not pinned."""
    autoencoder = open_autoencoder(config, patch_size)
    _refuse_unpinned("autoencoder", config, autoencoder.digest)
    return autoencoder


def _refuse_unpinned(part: str, config: TextEncoderConfig | AutoencoderConfig, digest: str) -> None:
    if not config.published and config.digest is None:
        raise ValueError(
            f"{part}.model={config.model} may be any model: give {part}.digest={digest!r}, so that the experiment says "
            "which weights it is about"
        )


@functools.cache
def judge_of() -> ShapesJudge:
    """The judge, after it has found the objects of its self-test picture."""
    judge = ShapesJudge.load()
    judge.self_test()
    return judge


def detector_of(plan: Evaluation) -> Judge | None:
    """Who judges GenEval's prompts on photographs, after its self-test; None where they are not asked."""
    if plan.detector is None:
        return None
    return open_detector(plan, str(device())) if plan.detector == "own" else _mask2former(plan)


@functools.lru_cache(maxsize=1)
def _mask2former(plan: Evaluation) -> Judge:
    found = open_detector(plan, str(device()))
    found.self_test()
    return found


def run_cell(experiment: Experiment, directory: Path, *, cache: Path, report: Report) -> None:
    """Run an experiment and write its files into `directory`.

    With training.devices, or in a job of Slurm that gives a cell several, it is run by as many processes; one that
    torchrun or srun started is one of them. Then all encode and train, and the first alone reports, scores and writes.

    Raises ValueError for what the user can mend (a corpus too small, a loss that is no number), OSError for the disk.
    """
    if srun.asked():
        srun.run_in_step(experiment, directory, cache=cache, report=report)
        return
    if ranks.to_start(experiment.training):
        from lensbench.sweep.launch import run_in_processes

        run_in_processes(experiment, directory, cache=cache, report=report)
        return
    with ranks.joined():
        first = ranks.rank() == 0
        with telling(directory) if first else contextlib.nullcontext(), counting(directory, ranks.rank()) as counter:
            _run_here(experiment, directory, cache, report if first else lambda progress: None, first, counter)


def _run_here(
    experiment: Experiment, directory: Path, cache: Path, report: Report, first: bool, counter: Counter
) -> None:
    began = time.perf_counter()
    directory.mkdir(parents=True, exist_ok=True)
    if first:
        (directory / "experiment.json").write_text(json.dumps(json.loads(experiment.model_dump_json()), indent=1))
        (directory / "versions.json").write_text(json.dumps(versions(), indent=1))
    judge = judge_of()  # before the training: a judge that fails its self-test must not cost a run
    detector = detector_of(experiment.evaluation)
    corpus = corpus_of(experiment.corpus, experiment.images)
    autoencoder = autoencoder_of(experiment.autoencoder, experiment.model.patch_size)
    encoder = encoder_of(experiment.text_encoder)
    texts = training_texts(corpus, experiment.captions, corpus.train_keys, experiment.text_encoder)
    what = plan(experiment, corpus)

    online = experiment.training.features == "online"  # then nothing is written: what is scored on stays in memory

    def telling(stage: Stage, note: str, cost: Cost | None = None) -> Callable[[int, int], None]:
        if cost is not None and cost.bytes > WORTH_TELLING:
            note += f", {shown(cost.bytes)} to write"
        return lambda done, total: report(Progress(stage, done, total, note))

    def features(of: Sequence[str], note: str) -> TextFeatures:
        if online:
            return encode_texts(of, encoder, None, report=telling("captions", note))
        rows = text_rows(of, encoder, cache)
        rows.fill(telling("captions", note, rows.cost()))
        return rows.features()

    def latents(keys: Sequence[str], note: str, size: Size | None = None) -> Latents:
        rows = None if online else image_rows(corpus, keys, autoencoder, cache, device=device(), size=size)
        if rows is None:
            where = telling("latents", note)
            return encode_images(corpus, keys, autoencoder, None, device=device(), size=size, report=where)
        rows.fill(telling("latents", note, rows.cost()))
        return rows.latents()

    def training_latents(keys: Sequence[str], size: Size | None) -> Latents:
        if online:
            return online_images(corpus, keys, autoencoder, device=device(), size=size)
        return latents(keys, "training images" if size is None else f"images of {size.height} x {size.width}", size)

    train_latents = encode_sizes(experiment, corpus, training_latents)
    held_out_latents = latents(what.keys, "held-out images")
    # Prompts apart from captions: every cell shares theirs, whatever its arm.
    prompt_features = features(what.texts(), "prompts")
    train_features: dict[str, TextFeatures]
    if online:
        train_features = {name: OnlineFeatures(encoder) for name in texts}
    else:  # each set apart, so that progress says which
        train_features = {name: features(of_set, name) for name, of_set in texts.items()}
        encoder.unload()  # it can be larger than the denoiser
    config = denoiser_config(experiment, encoder.width)
    batches = TrainingBatches(experiment, train_latents, texts, train_features, corpus.train_keys)
    token_counts = {name: train_features[name].token_counts(of_set) for name, of_set in texts.items()}
    of_size = [
        flops_per_image(config, experiment.captions, token_counts, math.prod(latents_of_size.grid))
        for latents_of_size in batches.latents.of_size
    ]

    def amount(step: int) -> Amount:
        seen = batches.seen(step)
        return Amount(step, int(seen.sum()), float(seen @ of_size))

    cell = {"cell": experiment.cell_id(), "experiment_hash": experiment.hash()}
    origin = {
        "corpus_digest": corpus.digest,
        "captions_digest": arm_digest(corpus.train_keys, texts),
        "prompts_digest": what.digest(),
        "judge_digest": judge.digest if detector is None else detector.digest,
        "text_encoder_digest": encoder.digest,
        "autoencoder_digest": autoencoder.digest,
        "commit": commit(),
        "hardware": hardware(),
    }
    # What must be the same for a run that was stopped to go on, beside the files it left: all but how it is scored.
    scoring = ("prompts_digest", "judge_digest")
    identity = cell | {name: said for name, said in origin.items() if name not in scoring}
    if first:
        spool.append(directory, [{"origin": origin}])
    train(
        experiment,
        config,
        batches,
        directory,
        lambda done, total, note: report(Progress("training", done, total, note)),
        identity,
        functools.partial(
            look,
            plan=what,
            features=prompt_features,
            autoencoder=autoencoder,
            real=held_out_latents,
            amount=amount,
            directory=directory,
        ),
    )
    encoder.unload()
    ranks.leave()
    if not first:
        return
    train_seconds = float(pd.read_csv(directory / files.LOSSES)["seconds"].iloc[-1])

    scorer = functools.partial(
        score,
        judge=judge,
        detector=detector,
        plan=what,
        features=prompt_features,
        autoencoder=autoencoder,
        real=held_out_latents,
    )
    checkpoints = _score_all(experiment, what, scorer, directory, report)
    images, shares = len(corpus.train_keys), experiment.captions.shares
    last = experiment.training.steps
    facts = Scores()
    facts.add_record("train_seconds", "", train_seconds, last)
    facts.add_record("cell_seconds", "", time.perf_counter() - began, last)
    facts.add_record("training_images", "", images, images)
    facts.add_record("dropped_images", "", corpus.dropped, images)
    facts.add_record("set_aside_images", "", len(corpus.set_aside), images)
    # Of a mixture: the mean over its sets by their shares.
    truncated = sum(share * encoder.truncated(texts[name]) for name, share in shares.items())
    tokens = sum(share * float(token_counts[name].mean()) for name, share in shares.items())
    facts.add_record("truncated_captions", "", truncated, images)
    facts.add_record("caption_tokens", "", tokens, images)
    for metric, value in _speed(directory).items():
        facts.add_record(metric, "", value, last)
    counter.note()
    for metric, value, source in cost.records(rate_given()) if (cost := spent([directory])) else ():
        facts.add_record(metric, "", value, last, extractor=source)
    checkpoints[last].records += facts.records
    for step, form, loss, n, low, high in _watched(directory):
        if step != last:  # where it is scored, and the same
            checkpoints.setdefault(step, Scores()).add_record("validation_loss", form, loss, n, low, high)
    outcomes, records = [], []
    for step, scores in checkpoints.items():
        outcomes += [{"cell": cell["cell"], "step": step} | row for row in scores.outcomes]
        records += [cell | row | amount(step)._asdict() | origin for row in scores.records]
    _write_pictures(directory, checkpoints[last])
    _write_parquet(pd.DataFrame(outcomes), directory / "outcomes.parquet")
    _write_parquet(pd.DataFrame(records), directory / "records.parquet", publish_once)
    shutil.rmtree(directory / files.RESUME, ignore_errors=True)


def _speed(directory: Path) -> dict[str, float]:
    """What the report keeps of the speed of training."""
    told = json.loads((directory / files.SUMMARY).read_text())
    kept = ("images_per_second", "peak_flops_share", "data_wait_share", "padding", "peak_memory_bytes")
    return {name: told[name] for name in kept}


def _watched(directory: Path) -> list[tuple[int, str, float, int, float, float]]:
    """What training was watched for: step, form, held-out loss, images, and the interval of the loss."""
    if not (directory / files.WATCHED).exists():
        return []
    table = pd.read_csv(directory / files.WATCHED, float_precision="round_trip")
    columns = table[["step", "form", "validation_loss", "n", "low", "high"]]
    return list(columns.itertuples(index=False, name=None))


def device() -> torch.device:
    """Where models compute: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _score_all(
    experiment: Experiment, what: Plan, scorer: Callable[..., Scores], directory: Path, report: Report
) -> dict[int, Scores]:
    steps = scoring_steps(experiment)
    total = sum(what.images(final=step == steps[-1]) for step in steps)
    done = 0

    def drawn(n: int) -> None:
        nonlocal done
        done += n
        report(Progress("scoring", done, total, "images drawn"))

    found = {}
    for step in steps:
        denoiser = load(files.checkpoint(directory, step)).to(device())
        found[step] = scorer(denoiser, final=step == steps[-1], report=drawn)
    return found


def _write_pictures(directory: Path, scores: Scores) -> None:
    from PIL import Image

    folder = directory / "pictures"
    folder.mkdir(exist_ok=True)
    for name, images in scores.pictures.items():
        np.savez_compressed(folder / f"{name}.npz", images=images)
        Image.fromarray(_mosaic(images[:64], columns=16, scale=max(1, 64 // images.shape[1]))).save(
            folder / f"{name}.png"
        )


def _mosaic(images: np.ndarray, columns: int, scale: int) -> np.ndarray:
    """(N, S, S, 3) laid out in rows of `columns`, each pixel `scale` wide, with a thin gray line between."""
    n, side = images.shape[:2]
    rows = -(-n // columns)
    sheet = np.full((rows * (side * scale + 2), columns * (side * scale + 2), 3), 128, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (side * scale + 2), (i % columns) * (side * scale + 2)
        sheet[top : top + side * scale, left : left + side * scale] = image.repeat(scale, 0).repeat(scale, 1)
    return sheet


def _write_parquet(frame: pd.DataFrame, path: Path, publishing: Callable[[Path, Path], None] = publish) -> None:
    partial = path.with_suffix(".partial")
    frame.to_parquet(partial, index=False)
    publishing(partial, path)
