"""`lensbench geneval2`: GenEval 2 of any folder of pictures in GenEval's layout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lensbench.commands.again import to_go_on
from lensbench.commands.counting import counting
from lensbench.commands.device import usable_device
from lensbench.commands.geneval import shard_of

if TYPE_CHECKING:
    from lensbench.report.table import Table
    from lensbench.scoring.geneval2 import Vlm
    from lensbench.scoring.judged_folder import Prompts
    from lensbench.scoring.statistics import Interval


def geneval2(
    folder: Annotated[
        Path, typer.Argument(help="What `lensbench generate MODEL FOLDER --prompts geneval2_data.jsonl` drew.")
    ],
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="ID|FOLDER", help="A vision-language model; Qwen/Qwen3-VL-8B-Instruct, the protocol's own."
        ),
    ] = None,
    server: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A model behind a server that gives logprobs, in place of that.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="The server; OPENAI_BASE_URL or OpenAI if left out.")
    ] = None,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Which part of the pictures, from 0/N: for several GPUs or machines.")
    ] = "0/1",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
) -> None:
    """Ask a vision-language model about pictures of GenEval 2's prompts, and print Soft-TIFA with intervals.

    The prompts are not ours to give (CC BY-NC): have your own copy of geneval2_data.jsonl.
    Stop it whenever you like: the same command goes on where it stopped.
    """
    from rich.console import Console

    from lensbench.sweep.quiet import quiet

    quiet()
    from lensbench.report.terminal import print_tables, say
    from lensbench.scoring.geneval2 import judge_folder, judged, open_prompts, summary, write_results

    number, count = shard_of(shard)
    prompts = open_prompts(folder)
    vlm = _vlm(judge, server, base_url, device)
    console = Console()
    try:
        with counting(console, "asking about") as report:
            judge_folder(prompts, vlm, shard=number, shards=count, report=report)
    except KeyboardInterrupt:
        raise to_go_on(f"stopped; what is judged stays in {folder}") from None
    known = judged(prompts, vlm)
    if count > 1 and len(known) < len(prompts.pictures):
        say(console, f"{len(known):,} of {len(prompts.pictures):,} pictures are judged: scores follow the last shard")
        return
    means = summary(prompts, known)
    print_tables(console, [table(prompts, vlm, means)])
    for path in write_results(prompts, known):
        say(console, f"written: {path}")


def table(prompts: Prompts, vlm: Vlm, means: dict[str, Interval]) -> Table:
    """Soft-TIFA of atoms and prompts, by skill and by the number of atoms, in percent."""
    from lensbench.report.table import Cell, Column, Row, Table, bounds, number
    from lensbench.scoring.geneval2 import OFFICIAL_PROMPTS

    names = {"soft_tifa_am": "atoms (Soft-TIFA AM)", "soft_tifa_gm": "prompts (Soft-TIFA GM)"}
    rows, last = [], "soft_tifa_gm"
    for name, mean in means.items():
        kind, _, which = name.partition(".")
        shown = names.get(name) or (f"atoms: {which}" if kind == "skill" else f"prompts of {which} atoms")
        low, high = 100 * mean.low, 100 * mean.high
        score = Cell(number(100 * mean.estimate), 100 * mean.estimate, low, high, bounds(low, high), "95%")
        rows.append(Row((Cell(shown, name), score), opens=kind != last.partition(".")[0] and "." in name))
        last = name
    columns = (Column("of", "of", "of", label=True), Column("score", "score", "score", interval=True, key=True))
    whole = len(prompts.rows) == OFFICIAL_PROMPTS
    notes = (
        ("GenEval 2" if whole else f"GenEval 2's protocol on {len(prompts.rows):,} prompts, not its 800")
        + f". Judge: {vlm.name}, digest {vlm.digest[:12]}: scores of different judges do not compare.",
        "The probability of the right answer, x 100; arithmetic means over atoms, geometric ones within a prompt. 95 % "
        "intervals over prompts; of one trained model.",
    )
    return Table("geneval2", str(prompts.folder), columns, tuple(rows), notes, filed=False)


def _vlm(judge: str | None, server: str | None, base_url: str | None, device: str) -> Vlm:
    if server is not None:
        if judge is not None:
            raise ValueError("--judge is a model on this machine, --server one behind a server: give one of them")
        from lensbench.captioner.questions import ServerVlm

        return ServerVlm(server, base_url)
    if base_url is not None:
        raise ValueError("--base-url is for --server MODEL")
    from lensbench.scoring.vlm import JUDGE, TransformersVlm

    return TransformersVlm(judge or JUDGE, usable_device(device))
