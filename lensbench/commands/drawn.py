"""The pictures of a folder or, of a model, those that are drawn for the occasion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lensbench.commands.again import to_go_on
from lensbench.forms import Form

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from lensbench.drawing.prompts import Prompts

CELL = "experiment.json"


def is_model(path: Path) -> bool:
    """Whether a path is a cell's directory or a pipeline's, and no folder of pictures."""
    return (path / CELL).is_file() or (path / "transformer").is_dir()


def drawn(
    path: Path,
    prompts: str | None,
    form: Form | None,
    step: int | None,
    console: Console,
    check: Callable[[Prompts], None] = lambda wanted: None,
) -> Path:
    """`path` itself where it is a folder of pictures; of a model, the folder of its pictures, which are drawn or gone
    on with: a cell's in its own drawn/, a pipeline's in drawn/ here.

    `check` refuses prompts before anything is drawn. Raises ValueError as `lensbench generate` does, and where a folder
    of pictures is given a form or a step.
    """
    if not is_model(path):
        if form is not None or step is not None:
            raise ValueError(f"{path} is no cell and no checkpoint: --form and --step are for those")
        return path
    from lensbench.drawing.draw import DrawingStoppedError, Wishes, draw
    from lensbench.drawing.pipeline import Parts, open_pipeline
    from lensbench.drawing.prompts import find_prompts

    pipeline = open_pipeline(path, Parts(), step)
    wanted = find_prompts(prompts, pipeline.experiment, form, None)
    check(wanted)
    of = pipeline.name.rpartition("step ")[2] if pipeline.experiment else pipeline.name
    out = (path if pipeline.experiment else Path()) / "drawn" / f"{of}-{wanted.digest[:12]}"
    out.parent.mkdir(exist_ok=True)
    try:
        draw(pipeline, wanted, Wishes(), out, console)
    except DrawingStoppedError as stopped:
        raise to_go_on(f"{stopped} in {out}") from None
    return out
