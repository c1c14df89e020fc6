"""What a sweep is asked: which arms are compared, where and by which number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from lensbench import mixture
from lensbench.experiment import Form, Part
from lensbench.forms import FORMS, neutral, trained_on
from lensbench.metrics import CHOOSING, GENEVAL, GUIDED, SCORED, Metric, of_kind
from lensbench.metrics import metric as named
from lensbench.scoring.geneval import TASKS
from lensbench.sweep.levels import levels_shown

if TYPE_CHECKING:
    from lensbench.experiment import Experiment
    from lensbench.sweep.design import Cell


class Question(Part):
    """A comparison that the report must answer: `arm` minus `against`, by one number.

    A sweep's primary question is tested alone at 5 %. Its other questions are secondary, and one family for Holm's
    correction; those that were asked when scores were known are a family of their own, and the report calls them post
    hoc. What no question asks is described with intervals and not tested.
    """

    arm: dict[str, Any] = Field(min_length=1, description="levels of arm factors; the others are the reference's")
    against: dict[str, Any] = Field({}, description="levels of the other arm; the reference arm if empty")
    at: dict[str, Any] = Field({}, description="levels of scale factors; every scale that both arms have, if empty")
    metric: str = Field(GENEVAL, description="a score of lensbench/metrics.py: geneval, geneval.<task>, fid, ...")
    form: Form | None = Field(None, description="the wording of the prompts; every one if none")
    post_hoc: bool = Field(False, description="whether it was asked after the scores were known")

    @field_validator("metric")
    @classmethod
    def is_a_score(cls, metric: str) -> str:
        try:
            of = named(metric)
        except ValueError as error:
            known = ", ".join(one.name for one in of_kind(*SCORED) if not one.variant_of)
            raise ValueError(f"{metric!r} is no score: name one of {known}, or geneval.<task> ({error})") from None
        if not of.is_score:
            raise ValueError(f"{metric!r} is no score but a {of.kind}: no arm is better by it")
        column, value = of.only or ("", "")
        if column == "task" and value not in TASKS:
            raise ValueError(f"{metric!r}: GenEval has no such task: name one of {', '.join(TASKS)}")
        if column == "guidance":
            raise ValueError(f"{metric!r}: the table of guidances compares these; name {GENEVAL}")
        return metric

    @field_validator("arm", "against", "at")
    @classmethod
    def sets_as_they_are_named(cls, levels: dict[str, Any]) -> dict[str, Any]:
        return {d: mixture.canonical(v) if d == "captions.set" and isinstance(v, str) else v for d, v in levels.items()}

    def arms(self, reference: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The two arms, as the levels of every arm factor; `reference` is that of the reference arm."""
        arm, other = (
            reference | {d: "none" if level is None else level for d, level in levels.items()}
            for levels in (self.arm, self.against)
        )
        return arm, other

    def label(self, reference: dict[str, Any]) -> str:
        """It for people, e.g. `geneval: set=detailed against set=alt at depth=2, short prompts`."""
        arm, other = self.arms(reference)
        differ = [dotted for dotted in arm if arm[dotted] != other[dotted]]
        sides = [levels_shown({dotted: levels[dotted] for dotted in differ}) for levels in (arm, other)]
        words = f"{self.metric}: {' against '.join(sides)}"
        if shared := {dotted: arm[dotted] for dotted in self.arm if dotted not in differ}:
            words += f" with {levels_shown(shared)}"
        if self.at:
            words += f" at {levels_shown(self.at)}"
        words += f", {self.form} prompts" if self.form else ""
        return f"{words} (post hoc)" if self.post_hoc else words

    def check(self, cells: Sequence[Cell], reference: dict[str, Any], *, primary: bool = False) -> None:
        """Raises ValueError where the sweep's cells cannot answer it, or where it cannot be the primary one."""
        arm, other = self.arms(reference)
        scales = [d for d in cells[0].levels if d not in reference and d != "seed"]
        if stray := [dotted for dotted in (*self.arm, *self.against) if dotted not in reference]:
            instead = ": say it in `at`, or give it a level in the reference" if stray[0] in scales else ""
            raise ValueError(f"questions: {stray[0]} is no factor of the arms ({', '.join(reference)}){instead}")
        if stray := [dotted for dotted in self.at if dotted not in scales]:
            told = ", ".join(scales) or "there is none"
            instead = ": it is in the reference, say it in `arm` and `against`" if stray[0] in reference else ""
            raise ValueError(f"questions: at: {stray[0]} is no scale factor ({told}){instead}")
        if arm == other:
            raise ValueError(f"questions: {_shown(arm)} is compared with itself")
        places = []
        for levels in (arm, other):
            there = self._scales(cells, reference, levels)
            if not there:
                where = f" at {_shown(self.at)}" if self.at else ""
                raise ValueError(f"questions: no cell is {_shown(levels)}{where}")
            places.append(there)
        if not places[0] & places[1]:
            raise ValueError(f"questions: {_shown(arm)} and {_shown(other)} are at no scale together")
        first = cells[0].experiment
        judged = first.corpus.kind == "shapes" or first.evaluation.detector is not None
        if named(self.metric).outcome == GENEVAL and not judged:
            raise ValueError(f"questions: metric={self.metric}: GenEval is not scored here: give evaluation.detector")
        if not any(_is_measured(named(self.metric), cell.experiment) for cell in cells):
            raise ValueError(f"questions: metric={self.metric}: no cell of this sweep is scored by it")
        if self.form and not any(self.form in cell.experiment.evaluation.forms for cell in cells):
            raise ValueError(f"questions: form {self.form!r} is not in evaluation.forms: it is not measured")
        if primary:
            self._check_primary(cells, reference)

    def comparisons(self, cells: Sequence[Cell], reference: dict[str, Any]) -> int:
        """How many numbers it compares: one at each scale that both arms have, in each wording."""
        arm, other = (self._scales(cells, reference, levels) for levels in self.arms(reference))
        return len(arm & other) * (1 if self.form else len(cells[0].experiment.evaluation.forms))

    def _scales(self, cells: Sequence[Cell], reference: dict[str, Any], levels: dict[str, Any]) -> set[tuple[Any, ...]]:
        """The scales that it is about at which there are cells of an arm."""
        scales = [d for d in cells[0].levels if d not in reference and d != "seed"]
        return {
            tuple(cell.levels[scale] for scale in scales)
            for cell in cells
            if _has(cell, levels) and _has(cell, self.at)
        }

    def _check_primary(self, cells: Sequence[Cell], reference: dict[str, Any]) -> None:
        """Raises ValueError where it is not one number, known beforehand, on prompts that neither arm was trained on
        the wording of."""
        arm, other = self.arms(reference)
        if self.post_hoc:
            raise ValueError("primary: a question that was asked post hoc confirms nothing; ask it in `questions`")
        scales = [d for d in cells[0].levels if d not in reference and d != "seed"]
        both = [self._scales(cells, reference, levels) for levels in (arm, other)]
        if len(both[0] & both[1]) > 1:
            raise ValueError(f"primary: at: name one level of {', '.join(scales)}: it is tested at one scale")
        compared = [cell.experiment for cell in cells if _has(cell, self.at) and (_has(cell, arm) or _has(cell, other))]
        forms = list(dict.fromkeys(form for experiment in compared for form in experiment.evaluation.forms))
        if self.form is None and len(forms) > 1:
            raise ValueError(f"primary: form: name one of {', '.join(forms)}: it is tested in one wording")
        form, sets = self.form or forms[0], [str(experiment.captions.set) for experiment in compared]
        if own := next((name for name in sets if trained_on(form, name)), None):
            raise ValueError(
                f"primary: form {form!r} is worded as the captions of {own} are, so that arm is asked in its own "
                f"words; give evaluation.forms and `form` one of {', '.join(neutral(FORMS, sets))}"
            )


def comparisons(questions: Iterable[Question], cells: Sequence[Cell], reference: dict[str, Any]) -> int:
    """How many numbers these questions compare in all: what a correction over them counts."""
    return sum(question.comparisons(cells, reference) for question in questions)


def _is_measured(of: Metric, experiment: Experiment) -> bool:
    """Whether an evaluation measures a metric. How a distance is named is known once its weights are: what may come of
    a word of `evaluation.metrics` counts."""
    from lensbench.scoring.measured import asked
    from lensbench.scoring.metrics import may_be

    what = asked(experiment)
    if of.kind == "loss":
        return True
    if of.outcome in (GENEVAL, GUIDED, CHOOSING):
        return what.geneval
    return any(may_be(of.name, wanted) for wanted in what.images)


def _has(cell: Cell, levels: dict[str, Any]) -> bool:
    return all(str(cell.levels.get(d)) == str(level) for d, level in levels.items())


def _shown(levels: dict[str, Any]) -> str:
    return " ".join(f"{dotted}={level}" for dotted, level in levels.items())
