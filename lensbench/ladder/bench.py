"""From a caption set to its card: check it, train it with every seed, score it, write down what came out."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.captions.given import read_given
from lensbench.captions.texts import arm_digest, training_texts
from lensbench.data.corpus import open_corpus
from lensbench.experiment import Captions, Experiment
from lensbench.ladder import card as cards
from lensbench.ladder.against import multipliers
from lensbench.ladder.card import Card
from lensbench.ladder.checks import Checks, check, check_coverage
from lensbench.ladder.scale import Scale
from lensbench.scoring.evaluation_plan import plan
from lensbench.sweep.provenance import versions
from lensbench.sweep.sweep import Results, Sweep, collect

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Entry:
    """A caption set at a scale, read and checked; nothing is trained yet."""

    scale: Scale
    name: str
    sweep: Sweep
    experiment: Experiment
    checks: Checks
    captions_digest: str


def enter(
    scale: Scale,
    captions: str,
    name: str | None = None,
    *,
    template: str | None = None,
    limit: int | None = None,
    shuffled: bool = False,
    with_corpus: Callable[[Sweep], Sweep] = lambda sweep: sweep,
) -> Entry:
    """Read and check a caption set: a file's, a folder's, a set of the corpus or a mixture of such.

    Raises ValueError, one line, for captions of other images, missing, empty or non-text ones; nothing is trained.
    """
    if name is not None and not re.fullmatch(r"[A-Za-z0-9][\w.+*-]*", name):
        raise ValueError(f"--name {name}: a card's name is of letters, digits, and . _ + * - within")
    given = None
    if _is_file(captions):
        given = read_given(Path(captions), template, limit)
        policy = Captions(
            set=given.policy_set(),
            given=Path(captions).resolve(),
            given_digest=given.digest,
            given_template=template,
            given_limit=limit,
            shuffled=shuffled,
        )
    elif template is not None or limit is not None:
        raise ValueError(f"--template and --limit-captions-per-image are for a file of captions; {captions!r} is none")
    else:
        policy = Captions(set=captions, shuffled=shuffled)
    sweep = with_corpus(scale.sweep(policy))
    corpus = open_corpus(sweep.base.corpus, sweep.base.images, sweep.base.images_seed)
    if given is not None:
        check_coverage(given, corpus)
    texts = training_texts(corpus, sweep.base.captions, corpus.train_keys, sweep.base.text_encoder)
    found = check(sweep.base, texts, plan(sweep.base, corpus), given)
    digest = arm_digest(corpus.train_keys, texts)
    own = Path(captions).stem if given is not None else captions
    return Entry(scale, name or own + ("-shuffled" if shuffled else ""), sweep, sweep.base, found, digest)


def run(entry: Entry, runs: Path, *, console: Console, workers: int, reference: Card | None) -> Card:
    """Train and score the seeds that are not there yet, and make the card; against `reference` its multipliers.

    Raises ValueError when a run failed; sweep.session.StoppedError when it was stopped.
    """
    from lensbench.sweep.session import work

    work(entry.sweep, runs, console=console, workers=workers)
    found = collect(entry.sweep, runs)
    if found.missing:
        first = found.missing[0]
        raise ValueError(f"seed {first['seed']} has no result ({first['reason']}); the same command tries again")
    return card_of(entry, found, reference)


def card_of(entry: Entry, found: Results, reference: Card | None = None) -> Card:
    """The card of complete runs."""
    policy = entry.experiment.captions
    captions: dict[str, Any] = {
        "set": policy.set,
        "shuffled": policy.shuffled,
        "given_digest": policy.given_digest,
        "template": policy.given_template,
        "limit_per_image": policy.given_limit,
        "digest": entry.captions_digest,
        "checks": asdict(entry.checks),
    }
    made = cards.make(entry.scale, entry.name, captions, found.records, found.outcomes, [], versions())
    if reference is not None and reference.name != made.name:
        made = replace(made, multiplier=multipliers(made, reference)).sealed()
    return made


@dataclass(frozen=True)
class Verified:
    """What running one seed again gave: how many of the card's outcomes it repeats, and on the same machine or not."""

    seed: int
    equal: int
    outcomes: int
    same_hardware: bool


def verify(card: Card, entry: Entry, seed: int, runs: Path, *, console: Console) -> Verified:
    """Run one seed of a card again, from nothing, in `runs`. Raises ValueError when these are other captions."""
    from lensbench.sweep.session import work

    if entry.captions_digest != card.captions["digest"]:
        raise ValueError(
            f"other captions: their digest is {entry.captions_digest[:12]}, the card's {card.captions['digest'][:12]}"
        )
    if entry.scale.digest != card.scale_digest:
        raise ValueError(f"the scale {card.scale} is another than the card's: check out the commit that made it")
    factors = entry.sweep.factors | {"seed": (seed,)}
    sweep = entry.sweep.model_copy(update={"factors": factors})
    work(sweep, runs, console=console)
    found = collect(sweep, runs)
    if found.missing:
        raise ValueError(f"seed {seed} has no result ({found.missing[0]['reason']})")
    again = cards.make(entry.scale, entry.name, {}, found.records, found.outcomes, [], {})
    pairs = [
        (own[str(seed)], again.outcomes[form][task][str(seed)])
        for form, tasks in card.outcomes.items()
        for task, own in tasks.items()
    ]
    equal = sum(a == b for own, new in pairs for a, b in zip(own, new, strict=True))
    same = card.made["hardware"] == again.made["hardware"]
    return Verified(seed, equal, sum(len(own) for own, _ in pairs), same)


def _is_file(captions: str) -> bool:
    path = Path(captions)
    return path.suffix in (".jsonl", ".parquet", ".csv") or (path / "set.json").is_file()
