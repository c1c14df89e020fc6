"""Sweeps from Python files, and opened: with what tuning found and the steps that matching derives.

A sweep file holds one module-level `sweep = Sweep(...)` and may import experiments from the folder beside it
(`from experiments.shapes import experiment`).
"""

from __future__ import annotations

import sys
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from lensbench.experiment import Experiment, one_line
from lensbench.sweep.constraints import resolved
from lensbench.sweep.design import Sweep
from lensbench.sweep.tuned import own_values, read_tuned, tuned_file, values_elsewhere

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Ready = Callable[[Sweep, Path], Sweep]


BESIDE = ("experiments", "sweeps")  # folders of a project whose files recipes import


def opened(sweep: Sweep, sweep_file: Path, ready: Ready | None = None) -> Sweep:
    """The sweep with the values that tuning found and the steps that it is matched to; its corpus must be there.

    `ready` reads the corpus of a further sweep file, whose tuning this one takes its values from. Raises ValueError
    where the tuning is not complete or was another one.
    """
    return resolved(sweep, *found_for(sweep, sweep_file, ready))


def found_for(
    sweep: Sweep, sweep_file: Path, ready: Ready | None = None
) -> tuple[dict[str, Any] | None, dict[str, dict[str, Any]]]:
    """What tuning found for a sweep, its own or that of `tuned_by`, and the values by the id of each draft; nothing
    where there is neither. Raises ValueError as `opened` does."""
    if sweep.tuned_by:
        beside = sweep_file.with_name(f"{sweep.tuned_by}.py")
        other = load(beside)
        if other.tuning is None:
            raise ValueError(f"{sweep_file}: tuned_by={sweep.tuned_by!r}: {beside} has no tuning")
        other = ready(other, beside) if ready else other
        told = read_tuned(other, tuned_file(beside))
        return told, values_elsewhere(sweep, other, told)
    if sweep.tuning is None:
        return None, {}
    told = read_tuned(sweep, tuned_file(sweep_file))
    return told, own_values(sweep, told)


def load(path: Path) -> Sweep:
    """The `sweep` of a Python file. ValueError, in one line, when there is none or the file raises."""
    sweep = _defined(path).get("sweep")
    if not isinstance(sweep, Sweep):
        found = "no `sweep`" if sweep is None else f"`sweep` is a {type(sweep).__name__}"
        raise ValueError(f"{path}: {found}; a sweep file ends with `sweep = Sweep(...)`")
    return sweep


def load_recipe(path: Path) -> Sweep:
    """The `sweep` of a Python file, or its `experiment` as a sweep of one cell. ValueError as `load` says."""
    defined = _defined(path)
    experiment = defined.get("experiment")
    if "sweep" in defined or not isinstance(experiment, Experiment):
        return load(path)
    return Sweep(
        name="experiment",
        base=experiment,
        factors={"captions.set": (experiment.captions.set,)},
        reference={"captions.set": experiment.captions.set},
    )


def _defined(path: Path) -> dict[str, Any]:
    # What a Python file defines.
    import runpy

    if not path.is_file():
        raise ValueError(f"{path}: no such sweep file; give the path of a Python file that defines `sweep`")
    with _importing_beside(path):
        try:
            return runpy.run_path(str(path), run_name="lensbench_sweep_file")
        except ValidationError as error:
            raise ValueError(f"{_place(error, path)}: {one_line(error)}") from error
        except (Exception, SystemExit) as error:
            message = str(error).splitlines()[0] if str(error).strip() else "no message"
            kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
            raise ValueError(f"{_place(error, path)}: {kind}{message}") from error


@contextmanager
def _importing_beside(path: Path) -> Iterator[None]:
    # sweeps/x.py imports experiments/y.py or sweeps/z.py of the same project. The import path and what was imported are
    # put back afterwards, so that two projects loaded by one process do not see each other's files.
    root = str(path.resolve().parent.parent)
    sys.path.insert(0, root)
    try:
        yield
    finally:
        sys.path.remove(root)
        for name in [name for name in sys.modules if name.partition(".")[0] in BESIDE]:
            del sys.modules[name]


def _place(error: BaseException, path: Path) -> str:
    # The innermost line that the user wrote: in the sweep file or in a file beside it.
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    root = path.resolve().parent.parent
    place = str(path)
    for frame in traceback.extract_tb(error.__traceback__):
        file = Path(frame.filename).resolve()
        if file == path.resolve() or file.parent in [root / name for name in BESIDE]:
            place = f"{path if file == path.resolve() else file}:{frame.lineno}"
    return place
