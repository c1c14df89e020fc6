"""The prompt forms: the wordings of an evaluation prompt, and which caption sets are worded alike.

Experiments, sampling, tables, the page and the docs take their forms from here. A form changes the words and nothing
else: the scene, the verdict's metadata and the sampling noise of a prompt are the same in every form.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lensbench import mixture

Form = Literal["short", "repeated", "detailed", "relational", "held_out"]


@dataclass(frozen=True)
class PromptForm:
    """One wording of the evaluation prompts.

    told: what the form is, as a clause without a full stop. templates_of: the caption sets that are worded with the
    form's templates. photographs: whether prompts for photographs have the form; the others are written from scenes of
    the shapes world.
    """

    name: Form
    told: str
    templates_of: frozenset[str]
    photographs: bool


_LIKE_SHORT = frozenset({"brief", "dose"})  # "a photo of a red circle and a blue ring" is a brief caption too
_LIKE_DETAILED = frozenset({"detailed", "dose"})

_IN_ORDER = (  # of tables and figures
    PromptForm("short", "GenEval's own wording", _LIKE_SHORT, photographs=True),
    PromptForm(
        "repeated",
        "the short prompt again and again, as long as the detailed one: length without content",
        _LIKE_SHORT,
        photographs=True,
    ),
    PromptForm(
        "detailed",
        "the same request in the wording of detailed captions, with places",
        _LIKE_DETAILED,
        photographs=True,
    ),
    PromptForm(
        "relational",
        "the detailed prompt without places: objects, attributes and the relation that is asked",
        _LIKE_DETAILED,
        photographs=False,
    ),
    PromptForm(
        "held_out",
        "what the detailed prompt says in words and an order that no caption uses, without places where a relation is "
        "asked",
        frozenset(),
        photographs=False,
    ),
)
REGISTRY: dict[str, PromptForm] = {form.name: form for form in _IN_ORDER}
FORMS: tuple[str, ...] = tuple(REGISTRY)
assert get_args(Form) == FORMS


def order_of(form: str) -> int:
    """The place of a form in tables and figures; a form of elsewhere comes last."""
    return FORMS.index(form) if form in FORMS else len(FORMS)


def told(form: str) -> str:
    """What a form is, in one line: "held_out: the detailed prompt in words ...". Raises ValueError for no such form."""
    return f"{form}: {_named(form).told}"


def trained_on(form: str, caption_set: str) -> bool:
    """Whether an arm that reads `caption_set`, a set's name or a mixture, is trained on the templates of `form`.

    What a headline must do with it: rest on forms that no arm was trained on (`neutral`), and tell the others as what
    they are, an arm asked in its own words. Where no form of a sweep is neutral, the headline says so and names no
    winner. A shuffled, cut or partly dropped caption keeps its templates.

    Known are the caption sets of the shapes world; in folders a set of the same name counts as worded alike. Of any
    other set the answer is False, which says that nothing is known. tests/test_forms.py measures the answers: a set has
    a form's templates where it shares most of the form's trigrams, with shapes, colors, sizes and numbers left open.
    Raises ValueError for no such form or mixture.
    """
    return not _named(form).templates_of.isdisjoint(mixture.shares(caption_set))


def neutral(forms: Iterable[str], caption_sets: Sequence[str]) -> tuple[str, ...]:
    """The forms, in the order of tables, whose templates no arm was trained on: those that a headline may rest on.

    `caption_sets` are those of every arm that is compared. Raises ValueError as `trained_on` does.
    """
    found = [form for form in forms if not any(trained_on(form, name) for name in caption_sets)]
    return tuple(sorted(found, key=order_of))


def _named(form: str) -> PromptForm:
    if form not in REGISTRY:
        raise ValueError(f"prompt form {form!r}: choose from {', '.join(FORMS)}")
    return REGISTRY[form]
