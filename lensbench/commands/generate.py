"""`lensbench generate`: pictures from a checkpoint, or from another model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lensbench.commands.again import to_go_on
from lensbench.forms import Form


def generate(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A cell's directory, a published Lens pipeline's folder, a denoiser's folder or file; or "
            "diffusers:FOLDER or diffusers:ID, any diffusers text-to-image pipeline.",
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The folder for the pictures, laid out as GenEval reads it.")],
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="geneval|FILE",
            help='GenEval\'s 553, or a file: .txt with a prompt a line, .jsonl with a "prompt" a line. '
            "Left out: what the cell is scored on.",
        ),
    ] = None,
    form: Annotated[
        Form | None,
        typer.Option(help="Wording of the cell's own prompts; short if left out."),
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Pictures a prompt; the cell's numbers, or 4.")] = None,
    steps: Annotated[int | None, typer.Option(help="Euler steps; the cell's, or 50.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale, 1 is none; the cell's, or 5.")] = None,
    guidance_interval: Annotated[
        tuple[float, float], typer.Option(metavar="LOW HIGH", help="Noise levels between which guidance is used.")
    ] = (0.0, 1.0),
    size: Annotated[
        int | None, typer.Option(help="Side of the square of the same area, in pixels; the cell's, or 1024.")
    ] = None,
    ratio: Annotated[
        str | None, typer.Option(metavar="W:H", help="Aspect ratio, one of Lens's nine; 1:1 if left out.")
    ] = None,
    height: Annotated[int | None, typer.Option(help="With --width, any size of whole tokens.")] = None,
    width: Annotated[int | None, typer.Option(help="With --height.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the noise; the cell's, or 0.")] = None,
    batch: Annotated[
        int | None, typer.Option(help="Pictures drawn at a time; changes nothing but speed and memory.")
    ] = None,
    step: Annotated[int | None, typer.Option(help="Which of the cell's checkpoints; the last if left out.")] = None,
    text_encoder: Annotated[
        str | None, typer.Option(metavar="KIND", help="minilm, qwen3 or gpt_oss, for a denoiser that does not say.")
    ] = None,
    text_encoder_model: Annotated[str | None, typer.Option(metavar="FOLDER|ID", help="Where its files are.")] = None,
    autoencoder: Annotated[
        str | None, typer.Option(metavar="KIND", help="pixels or flux2, for a denoiser that does not say.")
    ] = None,
    autoencoder_model: Annotated[str | None, typer.Option(metavar="FOLDER|ID", help="Where its files are.")] = None,
) -> None:
    """Draw pictures from a model, into the folders that GenEval scores.

    Stop it whenever you like: the same command goes on where it stopped.
    """
    from rich.console import Console

    from lensbench.sweep.quiet import quiet

    quiet()
    from lensbench.drawing.draw import DrawingStoppedError, Wishes, draw
    from lensbench.drawing.others import PREFIX, draw_other, open_other
    from lensbench.drawing.pipeline import Parts, open_pipeline
    from lensbench.drawing.prompts import find_prompts

    wishes = Wishes(
        steps=steps,
        guidance=guidance,
        guidance_interval=guidance_interval,
        size=size,
        ratio=ratio,
        height=height,
        width=width,
        seed=seed,
        batch=batch,
    )
    parts = Parts(text_encoder, text_encoder_model, autoencoder, autoencoder_model)
    try:
        if checkpoint.startswith(PREFIX):
            if step is not None or parts != Parts():
                raise ValueError(f"{checkpoint} brings its own parts: leave out --step, --text-encoder, --autoencoder")
            other = open_other(checkpoint.removeprefix(PREFIX))
            draw_other(other, find_prompts(prompts, None, form, samples), wishes, out, Console())
        else:
            pipeline = open_pipeline(Path(checkpoint), parts, step)
            draw(pipeline, find_prompts(prompts, pipeline.experiment, form, samples), wishes, out, Console())
    except DrawingStoppedError as stopped:
        raise to_go_on(f"{stopped} in {out}") from None
