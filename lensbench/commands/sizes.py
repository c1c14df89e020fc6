"""`lensbench sizes`: what models of every size cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lensbench.commands.sweeps import CorpusFolder, prepared


def sizes(
    sweep_file: Annotated[
        Path | None,
        typer.Argument(metavar="SWEEP.py", help="A sweep whose models, images and captions are asked about."),
    ] = None,
    corpus: CorpusFolder = None,
    depths: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="Blocks; the sweep's, or 4 to 48, if left out.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="N,N,...", help="Sides of images, in pixels; the sweep's, or 256,512,1024, if left out."),
    ] = None,
    text_tokens: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...", help="Lengths of captions; measured in the sweep, or from published means, if left out."
        ),
    ] = None,
    words: Annotated[str | None, typer.Option(metavar="N,N,...", help="The same in words.")] = None,
    tokens_per_word: Annotated[
        float | None, typer.Option(min=1, max=10, help="Where only words are known; English has about 4 in 3 words.")
    ] = None,
    encoder: Annotated[
        Literal["minilm", "qwen3", "gpt_oss"], typer.Option(help="Text encoder, where there is no sweep.")
    ] = "gpt_oss",
    memory: Annotated[str, typer.Option(metavar="GB", help="A GPU's memory.")] = "80GB",
    batch: Annotated[int, typer.Option(min=1, help="Images a step, on one GPU.")] = 32,
    precision: Annotated[
        Literal["bf16", "fp32"] | None, typer.Option(help="Of the matrix products; the sweep's, or bf16.")
    ] = None,
    optimizer: Annotated[
        Literal["adamw", "muon"] | None, typer.Option(help="Whose states are counted; the sweep's, or adamw.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write every number there, unrounded.")] = None,
) -> None:
    """Compare model sizes: parameters, training FLOPs, what longer captions cost, memory, what fits a GPU."""
    from dataclasses import replace

    from rich.console import Console

    from lensbench.captions.lengths import TOKENS_PER_WORD, given_tokens, given_words
    from lensbench.experiment import TextEncoder
    from lensbench.model.memory import Setting
    from lensbench.report import sizes as report
    from lensbench.report.terminal import print_tables

    gpu_bytes = report.memory_bytes(memory)
    per_word = tokens_per_word or TOKENS_PER_WORD
    if sweep_file is None:
        asked = report.of_lens(TextEncoder(kind=encoder), per_word)
    else:
        from lensbench.sweep.sweep import cells

        sweep = prepared(sweep_file, corpus)
        asked = report.of_experiments([cell.experiment for cell in cells(sweep)], per_word)
    if depths:
        asked = replace(asked, depths=report.whole_numbers("--depths", depths))
    if size:
        asked = replace(asked, sizes_px=report.whole_numbers("--size", size))
    if text_tokens and words:
        raise ValueError("--text-tokens and --words: give one of them")
    if text_tokens:
        asked = replace(asked, lengths=given_tokens(report.whole_numbers("--text-tokens", text_tokens)))
    if words:
        asked = replace(asked, lengths=given_words(report.whole_numbers("--words", words), per_word))
    setting = Setting(optimizer or asked.setting.optimizer, precision or asked.setting.precision)
    asked = replace(asked, setting=setting)
    found = report.costs(asked, batch, gpu_bytes)
    print_tables(Console(), report.tables(found, asked))
    if csv:
        report.write_csv(found, csv)
