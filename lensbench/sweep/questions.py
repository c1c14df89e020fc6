"""What a sweep is asked: which arms are compared, where and by which number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from lensbench import mixture
from lensbench.experiment import Form, Part
from lensbench.scoring.geneval import TASKS
from lensbench.sweep.levels import levels_shown

if TYPE_CHECKING:
    from lensbench.sweep.design import Cell

SCORES = ("geneval", "validation_loss", "fid", "fd_shapes")


class Question(Part):
    """A comparison that the report must answer: `arm` minus `against`, by one number.

    The comparisons of a sweep's questions are one family for Holm's correction.
    """

    arm: dict[str, Any] = Field(min_length=1, description="levels of arm factors; the others are the reference's")
    against: dict[str, Any] = Field({}, description="levels of the other arm; the reference arm if empty")
    at: dict[str, Any] = Field({}, description="levels of scale factors; every scale that both arms have, if empty")
    metric: str = Field("geneval", description="geneval, geneval.<task>, validation_loss, fid, ...")
    form: Form | None = Field(None, description="the wording of the prompts; every one if none")

    @field_validator("metric")
    @classmethod
    def is_a_score(cls, metric: str) -> str:
        name, dot, task = metric.partition(".")
        if name not in SCORES or bool(dot) != bool(task) or (task and name != "geneval"):
            raise ValueError(f"{metric!r} is no score: name one of {', '.join(SCORES)}, or geneval.<task>")
        if task and task not in TASKS:
            raise ValueError(f"{metric!r}: GenEval has no such task: name one of {', '.join(TASKS)}")
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
        return words + (f", {self.form} prompts" if self.form else "")

    def check(self, cells: Sequence[Cell], reference: dict[str, Any]) -> None:
        """Raises ValueError where the sweep's cells cannot answer it."""
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
            there = {
                tuple(cell.levels[scale] for scale in scales)
                for cell in cells
                if _has(cell, levels) and _has(cell, self.at)
            }
            if not there:
                where = f" at {_shown(self.at)}" if self.at else ""
                raise ValueError(f"questions: no cell is {_shown(levels)}{where}")
            places.append(there)
        if not places[0] & places[1]:
            raise ValueError(f"questions: {_shown(arm)} and {_shown(other)} are at no scale together")
        # In a sweep with GenEval the table of differences is about GenEval, elsewhere about every other score.
        first = cells[0].experiment
        judged = first.corpus.kind == "shapes" or first.evaluation.detector is not None
        if (self.metric.partition(".")[0] == "geneval") != judged:
            about = "GenEval" if judged else "all scores but GenEval"
            raise ValueError(f"questions: metric={self.metric}: the table of differences is about {about} here")
        if self.form and not any(self.form in cell.experiment.evaluation.forms for cell in cells):
            raise ValueError(f"questions: form {self.form!r} is not in evaluation.forms: it is not measured")


def _has(cell: Cell, levels: dict[str, Any]) -> bool:
    return all(str(cell.levels.get(d)) == str(level) for d, level in levels.items())


def _shown(levels: dict[str, Any]) -> str:
    return " ".join(f"{dotted}={level}" for dotted, level in levels.items())
