"""GenEval 2: Soft-TIFA, the probabilities that a vision-language model gives to the right answers (arXiv 2512.16853).

A prompt is made of atoms (an object, an attribute, a count, a relation, a verb), each with a question and its answer. A
picture's score for an atom is the probability of the right answer as the one word that follows. Atoms are estimated by
the arithmetic mean, whole prompts by the geometric one.

The 800 prompts are the authors', for non-commercial use alone, and no part of this package: give your own copy of
geneval2_data.jsonl to `lensbench generate --prompts`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lensbench.publishing import publish_text
from lensbench.scoring.geneval import Row
from lensbench.scoring.judged_folder import Judging, Prompts, judge_pictures, judged_by, open_folder
from lensbench.scoring.statistics import Interval, stratified_mean

JUDGED = "judged-geneval2"
RESULTS = "geneval2.jsonl"
SCORE_LISTS = "score_lists.json"
OFFICIAL_PROMPTS = 800
SKILLS = ("object", "attribute", "count", "position", "verb")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
SELF_TEST = Path(__file__).with_name("self_test.jpg")
SELF_TEST_ASKS = (  # questions about it, their answers, and whether the answer is right
    ("Are there any cats in the image?", "Yes", True),
    ("Are there any people in the image?", "Yes", True),
    ("Are there any bicycles in the image?", "Yes", False),
    ("Are there any airplanes in the image?", "Yes", False),
)


class Vlm(Protocol):
    """A vision-language model that answers questions about pictures. `name` and `digest` go into every record."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    def answer(
        self, image: np.ndarray, questions: Sequence[str], accepted: Sequence[Sequence[str]]
    ) -> list[tuple[str, float]]:
        """For each question about a picture uint8 (H, W, 3): the likeliest next token, and the probability that it is
        the beginning of one of the accepted spellings of the right answer."""
        ...


def accepted(question: str, answer: str) -> tuple[str, ...]:
    """How the right answer may be spelled: of a count the word and the digits, of anything else yes.

    In either case and with a leading space, as the published scorer has it.
    """
    if not question.startswith("How many"):
        return ("Yes", "yes", " yes", " Yes")
    spelled = [answer, answer.capitalize(), f" {answer}", f" {answer.capitalize()}"]
    if answer in NUMBERS:
        digits = str(NUMBERS.index(answer) + 1)
        spelled += [digits, f" {digits}"]
    return tuple(spelled)


def asked(question: str) -> str:
    """The question as it is put to the model."""
    return f"{question} Answer in one word."


def geometric_mean(scores: Sequence[float]) -> float:
    """The geometric mean of probabilities; 0 where one of them is 0."""
    return 0.0 if min(scores) <= 0 else math.exp(sum(map(math.log, scores)) / len(scores))


def open_prompts(folder: Path) -> Prompts:
    """A folder of pictures of GenEval 2's prompts. Raises ValueError, one line, when it is none or a row is wrong."""
    wanted = {"prompt": str, "atom_count": int, "vqa_list": list, "skills": list}
    prompts = open_folder(folder, wanted, "GenEval 2")
    for number, row in prompts.rows.items():
        pairs, skills = row["vqa_list"], row["skills"]
        sound = pairs and all(isinstance(pair, list) and list(map(type, pair)) == [str, str] for pair in pairs)
        if not sound or len(pairs) != len(skills):
            raise ValueError(
                f"{folder / f'{number:05d}'}: vqa_list must be [question, answer] pairs, and skills one word for each"
            )
    return prompts


def judge_folder(
    prompts: Prompts,
    vlm: Vlm,
    *,
    shard: int = 0,
    shards: int = 1,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Ask about the pictures of a shard that were not asked about yet: see `judge_pictures`."""

    def answers(rows: Sequence[Row], images: Sequence[np.ndarray]) -> Iterator[dict[str, Any]]:
        for row, image in zip(rows, images, strict=True):
            pairs: list[tuple[str, str]] = row["vqa_list"]
            questions = [asked(question) for question, _ in pairs]
            said = vlm.answer(image, questions, [accepted(question, answer) for question, answer in pairs])
            scores = [probability for _, probability in said]
            yield {
                "prompt": row["prompt"],
                "said": [word for word, _ in said],
                "scores": scores,
                "soft_tifa_am": sum(scores) / len(scores),
                "soft_tifa_gm": geometric_mean(scores),
                "judge": vlm.name,
                "judge_digest": vlm.digest,
            }

    judging = Judging(JUDGED, vlm.digest[:16], lambda: self_test(vlm), answers)
    judge_pictures(prompts, judging, shard=shard, shards=shards, batch=1, report=report)


def self_test(vlm: Vlm) -> None:
    """Ask what is in a known picture. Raises ValueError where the answers are wrong: scores would say nothing."""
    from PIL import Image

    picture = np.array(Image.open(SELF_TEST).convert("RGB"))
    questions = [asked(question) for question, _, _ in SELF_TEST_ASKS]
    said = vlm.answer(picture, questions, [accepted(question, answer) for question, answer, _ in SELF_TEST_ASKS])
    for (question, _, right), (word, probability) in zip(SELF_TEST_ASKS, said, strict=True):
        if (probability > 0.5) != right:
            raise ValueError(
                f"{vlm.name}: asked about its self-test picture ({question}) it says {word!r}, with a probability of "
                f"{probability:.2f} for yes; it should {'' if right else 'not '}say yes: no scores"
            )


def judged(prompts: Prompts, vlm: Vlm) -> dict[str, dict[str, Any]]:
    """Every picture that this model was asked about, by its file name, from all shards."""
    return judged_by(prompts.folder, JUDGED).get(vlm.digest[:16], {})


def summary(prompts: Prompts, known: Mapping[str, Mapping[str, Any]]) -> dict[str, Interval]:
    """Means with 95 % intervals over prompts, by "soft_tifa_am", "soft_tifa_gm", "skill.<skill>" and "atoms.<number>".

    Atoms by skill are means over atoms, prompts by their number of atoms geometric means. Raises ValueError when a
    picture is missing or not judged: a score leaves nothing out.
    """
    if missing := prompts.missing():
        raise ValueError(f"{prompts.folder}: {missing:,} pictures are missing; a score leaves nothing out")
    rows = []
    for picture in prompts.pictures:
        if (found := known.get(prompts.name(picture))) is None:
            raise ValueError(f"{picture.path}: not judged yet")
        rows.append((picture.prompt, prompts.rows[picture.prompt], found))

    def mean(values: Sequence[float], clusters: Sequence[int]) -> Interval:
        return stratified_mean(values, clusters, np.zeros(len(values)))

    indices = [index for index, _, _ in rows]
    means = {name: mean([found[name] for *_, found in rows], indices) for name in ("soft_tifa_am", "soft_tifa_gm")}
    atoms = [
        (skill, score, index)
        for index, row, found in rows
        for skill, score in zip(row["skills"], found["scores"], strict=True)
    ]
    named = {skill for skill, _, _ in atoms}
    for skill in (*SKILLS, *sorted(named - set(SKILLS))):
        if some := [(score, index) for name, score, index in atoms if name == skill]:
            means[f"skill.{skill}"] = mean(*zip(*some, strict=True))
    for count in sorted({row["atom_count"] for _, row, _ in rows}):
        alike = [(found["soft_tifa_gm"], index) for index, row, found in rows if row["atom_count"] == count]
        means[f"atoms.{count}"] = mean(*zip(*alike, strict=True))
    return means


def write_results(prompts: Prompts, known: Mapping[str, Mapping[str, Any]]) -> list[Path]:
    """Write every judged picture in order and, of one picture a prompt, what the published analysis reads: a list of
    the atoms' scores for each prompt."""
    rows = [known[prompts.name(picture)] for picture in prompts.pictures]
    written = [publish_text(prompts.folder / RESULTS, "".join(json.dumps(row) + "\n" for row in rows))]
    if len(rows) == len(prompts.rows):
        written.append(publish_text(prompts.folder / SCORE_LISTS, json.dumps([row["scores"] for row in rows]) + "\n"))
    return written
