"""Opening a sweep: its cells get the hyper-parameters that tuning found and the steps that spend what must be alike.

With `match`, a cell's training.steps are the budget of what it is matched to, divided by what one of its steps spends,
rounded to a whole step: at most half a step more or less. What a step spends is counted, not estimated: its images, the
tokens of the arm's own captions (lensbench.sweep.amounts), or the FLOPs of the matrix products with those tokens,
forward and backward. The steps are part of the cell's experiment and so of its hash.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lensbench.experiment import Experiment
from lensbench.sweep.design import STEPS, Cell, Match, Sweep, drafts
from lensbench.sweep.levels import levels_shown

if TYPE_CHECKING:
    from collections.abc import Mapping

UNITS = {"flops": "FLOPs", "samples": "images seen", "caption_tokens": "tokens of captions"}


def resolved(
    sweep: Sweep, tuned: Mapping[str, Any] | None = None, values: Mapping[str, Mapping[str, Any]] | None = None
) -> Sweep:
    """The sweep with `derived` filled in, where it is tuned or matched; else the sweep itself.

    `tuned` is what tuning found, the sweep's own or another's, and `values` what that is for the id of each draft (see
    lensbench.sweep.tuned); without values the sweep stays untuned.

    Raises ValueError where there is nothing to match to, or a corpus or tokenizer to count with is not there.
    """
    if not sweep.match and not sweep.tuning and not sweep.tuned_by:
        return sweep
    plain = sweep.filled((), {})
    drafted = drafts(plain)
    steps = matched_steps(plain, drafted) if sweep.match else {}
    derived = []
    for cell in drafted:
        changes = dict((values or {}).get(cell.id, {}))
        if cell.id in steps:
            changes[STEPS] = steps[cell.id]
        derived.append(changes)
    return plain.filled(tuple(derived), dict(tuned or {}))


def matched_steps(sweep: Sweep, drafted: list[Cell]) -> dict[str, int]:
    """training.steps by the id of each draft. Raises ValueError where the reference arm is not at a cell's scale."""
    assert sweep.match is not None
    of_levels = {tuple(cell.levels.values()): cell.experiment for cell in drafted}
    reference = sweep.reference_arm()
    budgets: dict[tuple[Any, ...], float] = {}
    out = {}
    for cell in drafted:
        if sweep.match_to == "base":  # a factor may vary the budget, in steps of the base
            key: tuple[Any, ...] = (cell.experiment.training.steps,)
            anchor = sweep.base.replace({STEPS: key[0]}) if key not in budgets else None
        else:
            key = tuple((cell.levels | reference).values())
            anchor = of_levels.get(key)
            if anchor is None:
                where = levels_shown({d: v for d, v in cell.levels.items() if d not in reference})
                raise ValueError(f"match: no reference arm at [{where}] to match; match_to='base' needs none")
        if key not in budgets:
            assert anchor is not None
            budgets[key] = anchor.training.steps * spent_a_step(sweep.match, anchor)
        steps = round(budgets[key] / spent_a_step(sweep.match, cell.experiment))
        if steps < 1:
            raise ValueError(f"match: the budget is less than half a step of [{cell.label()}]: give it more steps")
        out[cell.id] = steps
    return out


def spent_a_step(match: Match, experiment: Experiment) -> float:
    """What one step of training spends of what is matched."""
    images = experiment.training.batch
    if match == "samples":
        return images
    from lensbench.sweep.amounts import image_flops, mean_tokens

    spent = images * (image_flops if match == "flops" else mean_tokens)(experiment)
    if not spent:
        raise ValueError("match: an arm without captions has no tokens of captions to match")
    return spent


def notes(sweep: Sweep, cells: list[Cell]) -> list[str]:
    """What a report must say of derived steps and tuned values."""
    out = []
    if sweep.match:
        steps = sorted({cell.experiment.training.steps for cell in cells})
        span = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
        whose = "the reference arm at its scale" if sweep.match_to == "reference" else "the base"
        out.append(
            f"training.steps are derived ({span}) so that every cell spends the {UNITS[sweep.match]} of {whose}, "
            f"to half a step, at most {50 / steps[0]:.2g} %"
        )
        if STEPS in sweep.every_factor():
            out.append(f"a level of {STEPS} is that of {whose}")
    if sweep.paired is not None:
        own = [dotted for dotted in sweep.every_factor() if dotted not in (*sweep.paired, "seed")]
        if own:
            out.append(f"levels of {', '.join(own)} have seeds of their own: not paired")
    if sweep.tuned and sweep.tuned_by:
        search = ", ".join(sweep.tuned["tuning"]["search"])
        out.append(f"{search} as tuned for each arm of {sweep.tuned['sweep']} ({sweep.tuned['digest'][:12]})")
    if sweep.tuned and sweep.tuning:
        count = f"{sweep.tuning.trials} trials for each arm and size"
        where = f", at {levels_shown(sweep.tuning.at)} and used at its other levels" if sweep.tuning.at else ""
        out.append(f"{', '.join(sweep.tuning.search)} tuned with {count}{where} ({sweep.tuned['digest'][:12]})")
    return out
