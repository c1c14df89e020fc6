"""Everything that the cells of a sweep read from disk, encoded before any of them starts: `lensbench encode`.

Captions, prompts and images that several cells share are one row each. Several processes, one a GPU, fill the same
stores (lensbench.data.rowstore): each takes what no other has taken.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

from lensbench.captions.texts import training_texts
from lensbench.data.buckets import Size
from lensbench.data.corpus import Corpus
from lensbench.data.features import TextRows, text_rows
from lensbench.data.latents import ImageRows, Latents, OnlineLatents, image_rows
from lensbench.data.rowstore import Cost, check_room
from lensbench.data.sized import encode_sizes
from lensbench.experiment import Experiment
from lensbench.model.autoencoder import Autoencoder
from lensbench.scoring.evaluation_plan import plan
from lensbench.sweep.cell_parts import autoencoder_of, corpus_of, device, encoder_of
from lensbench.sweep.processes import cores, gpus
from lensbench.sweep.quiet import quiet

GRACE_SECONDS = 30.0  # for a process that is asked to stop
Report = Callable[[int, int, int], None]  # the number of a job, rows that are there, rows in all


@dataclass(frozen=True)
class Job:
    """Rows of one kind that some of the cells read, those of earlier jobs left out."""

    what: str
    encoded_by: str
    rows: TextRows | ImageRows

    @property
    def tokens(self) -> int:
        """Of all its rows, those that are there with them."""
        if isinstance(self.rows, TextRows):
            return int(self.rows.lengths.sum())
        return len(self.rows.names) * self.rows.tokens

    def unit(self) -> str:
        """What its rows are."""
        return "texts" if isinstance(self.rows, TextRows) else "images"


def jobs(experiments: Sequence[Experiment], cache: Path) -> list[Job]:
    """What the experiments read from `cache`, whether or not it is there; those that encode online read nothing.

    Tokens are counted; nothing is encoded or written. Raises ValueError as running the experiments would.
    """
    texts = _Texts(cache)
    images = _Images(cache)
    reading = [experiment for experiment in experiments if experiment.training.features == "cached"]
    for experiment in reading:
        corpus = corpus_of(experiment.corpus, experiment.images, experiment.images_seed)
        captions = training_texts(corpus, experiment.captions, corpus.train_keys, experiment.text_encoder)
        for name, of_set in captions.items():
            texts.add(experiment, f"captions, {name}", of_set)
        texts.add(experiment, "prompts", plan(experiment, corpus).texts())
        images.add(experiment, corpus)
    return texts.jobs() + images.jobs()


class _Texts:
    """The texts of some cells, by their encoder and what they are for."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.found: dict[tuple[object, str], tuple[Experiment, dict[str, None]]] = {}

    def add(self, experiment: Experiment, what: str, texts: Sequence[str]) -> None:
        _, known = self.found.setdefault((experiment.text_encoder, what), (experiment, {}))
        known.update(dict.fromkeys(texts))

    def jobs(self) -> list[Job]:
        out, seen = [], set[tuple[object, str]]()
        for (config, what), (experiment, texts) in self.found.items():
            new = [text for text in texts if (config, text) not in seen]
            seen.update((config, text) for text in new)
            rows = text_rows(new, encoder_of(experiment.text_encoder), self.cache)
            out.append(Job(what, experiment.text_encoder.kind, rows))
        return [job for job in out if len(job.rows.names)]


@dataclass(frozen=True)
class _Wanted:
    """Images that some cells read in one size."""

    what: str
    experiment: Experiment
    corpus: Corpus
    autoencoder: Autoencoder
    size: Size | None
    keys: dict[str, None] = field(default_factory=dict)

    def rows(self, keys: Sequence[str], cache: Path) -> ImageRows | None:
        return image_rows(self.corpus, keys, self.autoencoder, cache, device=device(), size=self.size)


class _Images:
    """The images of some cells, by the store that they lie in and what they are for."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.found: dict[tuple[Path, str], _Wanted] = {}

    def add(self, experiment: Experiment, corpus: Corpus) -> None:
        autoencoder = autoencoder_of(experiment.autoencoder, experiment.model.patch_size)

        def note(what: str, keys: Sequence[str], size: Size | None) -> Latents:
            height, width = size or (corpus.config.size_px,) * 2
            wanted = _Wanted(f"{what}, {height} x {width}", experiment, corpus, autoencoder, size)
            if (none := wanted.rows([], self.cache)) is not None:
                self.found.setdefault((none.store.folder, wanted.what), wanted).keys.update(dict.fromkeys(keys))
            return OnlineLatents(corpus, keys, autoencoder, size, device())

        encode_sizes(experiment, corpus, lambda keys, size: note("training images", keys, size))
        note("held-out images", plan(experiment, corpus).keys, None)

    def jobs(self) -> list[Job]:
        out, seen = [], set[tuple[Path, str]]()
        for (folder, _), wanted in self.found.items():
            new = [key for key in wanted.keys if (folder, key) not in seen]
            seen.update((folder, key) for key in new)
            rows = wanted.rows(new, self.cache)
            assert rows is not None
            out.append(Job(wanted.what, wanted.experiment.autoencoder.kind, rows))
        return [job for job in out if len(job.rows.names)]


def total(costs: Sequence[Cost]) -> Cost:
    """What several jobs take together."""
    return Cost(sum(c.rows for c in costs), sum(c.there for c in costs), sum(c.bytes for c in costs))


def encode(todo: Sequence[Job], experiments: Sequence[Experiment], cache: Path, workers: int, report: Report) -> None:
    """Do the jobs of the experiments, in this process or in `workers` others.

    Raises OSError when the disk has no room for them, ValueError when rows are missing because a process ended early.
    Whatever stops it, the shards that are finished stay.
    """
    check_room(cache, total([job.rows.cost() for job in todo]).bytes)
    if workers == 1:
        _fill(todo, report)
    elif reasons := _in_processes(experiments, cache, workers, report):
        after = total([job.rows.cost() for job in todo])
        if after.there < after.rows:  # else the others have done its part
            raise ValueError(f"{reasons[0]}; what is finished stays, and the same command goes on")


def _fill(todo: Sequence[Job], report: Report) -> None:
    for number, job in enumerate(todo):
        job.rows.fill(lambda done, of, number=number: report(number, done, of))  # type: ignore[misc]
        later = [other.rows.encoder for other in todo[number + 1 :] if isinstance(other.rows, TextRows)]
        if isinstance(job.rows, TextRows) and job.rows.encoder not in later:
            job.rows.encoder.unload()  # it can take most of a GPU


def _in_processes(experiments: Sequence[Experiment], cache: Path, workers: int, report: Report) -> list[str]:
    """Why processes ended early, if any has; none outlives the call."""
    spawn = multiprocessing.get_context("spawn")  # a fork of a process that has used a GPU cannot use it
    devices, threads = gpus(), max(1, cores() // workers)
    children, reasons = [], []
    try:
        for lane in range(workers):
            reading, writing = spawn.Pipe(duplex=False)
            gpu = devices[lane % len(devices)] if devices else None
            child = spawn.Process(target=_child, args=(list(experiments), cache, gpu, threads, writing), daemon=True)
            child.start()
            writing.close()
            children.append((child, reading))
        pipes = [reading for _, reading in children]
        while pipes:
            for ready in wait(pipes):
                assert isinstance(ready, Connection)
                try:
                    said = ready.recv()
                except EOFError:
                    pipes.remove(ready)
                    continue
                if isinstance(said, str):
                    reasons.append(said)
                else:
                    report(*said)
        for child, _ in children:
            child.join()
            if child.exitcode and not reasons:
                reasons.append(f"a process that encoded ended early, with exit code {child.exitcode}")
    finally:
        for child, _ in children:
            child.terminate()
        for child, reading in children:
            child.join(GRACE_SECONDS)
            child.kill()
            child.join()
            reading.close()
    return reasons


def _child(experiments: list[Experiment], cache: Path, gpu: str | None, threads: int, writing: Connection) -> None:
    def stop(number: int, frame: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which decides
    signal.signal(signal.SIGTERM, stop)
    quiet()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    torch.set_num_threads(threads)
    try:
        _fill(jobs(experiments, cache), lambda *said: writing.send(said))
    except BrokenPipeError:
        raise SystemExit(1) from None  # the parent is gone
    except (ValueError, OSError) as error:
        writing.send(str(error))
        raise SystemExit(1) from None
