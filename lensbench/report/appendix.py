"""The reproducibility appendix of a paper, written from what is frozen: experiments, hashes, seeds, versions, the
prompts of captioners, compute, and the answers to NeurIPS's checklist that the results themselves give."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lensbench.report.costs import in_flops
from lensbench.report.grid import Grid
from lensbench.report.levels import factor_label
from lensbench.report.notes import number_of_seeds
from lensbench.report.render import HEAD, escape

if TYPE_CHECKING:
    from lensbench.report.freeze import Frozen

CELLS_SHOWN = 120
OF_ALL = (
    "Every table, figure and number of this paper is generated from frozen records; the experiment of each run is a "
    "value with a content hash, of which its identifier is the first twelve digits."
)
AUTHORS = r"\emph{to be answered by the authors}"
DIGEST_NAMES = {
    "corpus_digest": "corpus",
    "captions_digest": "training captions, one an arm",
    "prompts_digest": "evaluation prompts",
    "judge_digest": "judge",
    "text_encoder_digest": "text encoder",
    "autoencoder_digest": "autoencoder",
}
COST_NAMES = {
    "train_seconds": ("hours of training", 3600.0),
    "cell_seconds": ("hours with encoding and scoring", 3600.0),
    "device_hours": ("device-hours", 1.0),
    "cost_usd": ("dollars", 1.0),
    "energy_kwh": ("kWh", 1.0),
    "energy_kwh_estimated": ("kWh, estimated", 1.0),
}


def appendix(grid: Grid, frozen: Frozen) -> str:
    """LaTeX from `\\section` on; needs longtable and booktabs."""
    parts = [
        HEAD,
        r"\section{Reproducibility}",
        f"{_opening(grid, frozen)} {OF_ALL}",
        *_recipe(grid, frozen),
        *_cells(grid, frozen),
        *_digests(frozen),
        *_captioners(frozen),
        *_compute(grid, frozen),
        r"\section{Checklist}",
        "The answers below follow from the frozen results; the others are the authors'.",
        r"\begin{description}",
        *(rf"\item[{i}. {name}] {answer}" for i, (name, answer) in enumerate(_checklist(grid, frozen), 1)),
        r"\end{description}",
    ]
    return "\n".join(parts) + "\n"


def further_appendix(grid: Grid, frozen: Frozen, first: Frozen) -> str:
    """That of a further sweep of a paper: its runs, what they cost, and in what they are not as the first sweep's."""
    captioners = _captioners(frozen) if frozen.provenance.get("captioners") else ()
    parts = [
        HEAD,
        rf"\section{{Reproducibility of \texttt{{{escape(grid.results.sweep_name)}}}}}",
        _opening(grid, frozen),
        *_recipe(grid, frozen, first),
        *_cells(grid, frozen),
        *_digests(frozen, first),
        *captioners,
        *_compute(grid, frozen),
    ]
    return "\n".join(parts) + "\n"


def _opening(grid: Grid, frozen: Frozen) -> str:
    told, results = frozen.provenance, grid.results
    commits = told.get("commit", [])
    names = " and ".join(rf"\texttt{{{escape(commit)}}}" for commit in commits)
    code = f"at commit {names}" if commits else "at a commit that was not recorded"
    if told.get("dirty"):
        code += ", with changes that are not in it"
    missing = f"; {len(results.missing)} are missing, and nothing stands in for them" if results.missing else ""
    seeds, each = ", ".join(str(seed) for seed in grid.seeds), number_of_seeds(grid)
    seeds += "" if each == str(len(grid.seeds)) else f" ({each} of them for an arm at a scale)"
    return (
        f"Sweep \\texttt{{{escape(results.sweep_name)}}}: {len(told.get('cells', [])):,} training runs{missing}. "
        f"Training seeds: {escape(seeds)}. The code is lensbench {code}."
    )


def _recipe(grid: Grid, frozen: Frozen, first: Frozen | None = None) -> Iterator[str]:
    if not frozen.sciences:
        return
    factors, fields = grid.results.factors, _values(frozen)
    yield r"\subsection*{Experiments}"
    if first is None:
        yield "Every run is this experiment, at one level of each factor; fields that are not shown have no effect."
    else:
        theirs = _values(first)
        fields = {name: values for name, values in fields.items() if name in factors or values != theirs.get(name)}
        yield (
            rf"Every run is the experiment of \texttt{{{escape(first.results.sweep_name)}}} but for these fields, at "
            "one level of each factor."
        )
    yield r"{\scriptsize\begin{longtable}{@{}lp{0.58\linewidth}@{}}\toprule field & value \\ \midrule\endhead"
    for name in [*fields, *(name for name in factors if name not in fields)]:
        if name in factors:
            told = "factor: " + _breakable(", ".join(str(level) for level in factors[name]))
        elif len(fields[name]) > 1:
            told = "set by the factors: " + _breakable(", ".join(fields[name]))
        else:
            told = _breakable(fields[name][0])
        yield rf"\texttt{{{escape(name)}}} & {told} \\"
    yield r"\bottomrule\end{longtable}}"


def _values(frozen: Frozen) -> dict[str, list[str]]:
    """field -> its values among the runs, each once."""
    found: dict[str, dict[str, None]] = {}
    for science in frozen.sciences.values():
        for name, value in _fields(science):
            found.setdefault(name, {})[value] = None
    return {name: list(values) for name, values in found.items()}


def _cells(grid: Grid, frozen: Frozen) -> Iterator[str]:
    factors = [*grid.results.factors]
    rows = [*grid.results.records.drop_duplicates("cell").to_dict("records"), *grid.results.missing]
    rows.sort(key=lambda row: tuple(_order(grid, name, row.get(name)) for name in factors))
    yield r"\subsection*{Runs}"
    yield r"{\scriptsize\begin{longtable}{@{}lll@{}}\toprule run & factors & parameters \\ \midrule\endhead"
    for row in rows[:CELLS_SHOWN]:
        words = ", ".join(filter(None, (factor_label(name, row[name]) for name in factors if name in row)))
        gone = " (missing)" if "reason" in row else ""
        count = frozen.parameters.get(str(row["cell"]))
        size = f"{count:,}" if count else "--"
        yield rf"\texttt{{{escape(str(row['cell']))}}} & {escape(words + gone)} & {size} \\"
    yield r"\bottomrule\end{longtable}}"
    if len(rows) > CELLS_SHOWN:
        yield f"and {len(rows) - CELLS_SHOWN:,} more, in the frozen results."


def _digests(frozen: Frozen, first: Frozen | None = None) -> Iterator[str]:
    known = first.provenance if first is not None else {}
    rows = []
    for key, name in DIGEST_NAMES.items():
        new = [digest for digest in frozen.provenance.get(key, []) if digest not in known.get(key, [])]
        rows += [rf"{escape(name) if not i else ''} & \texttt{{{escape(digest)}}} \\" for i, digest in enumerate(new)]
    yield r"\subsection*{Digests and versions}"
    if rows or first is None:
        more = " and is not of the first sweep" if first is not None else ""
        table = r"\par{\scriptsize\begin{longtable}{@{}ll@{}}\toprule of & digest \\ \midrule\endhead"
        yield f"sha256 of what went in{more}:{table}"
        yield from rows
        yield r"\bottomrule\end{longtable}}"
    else:
        yield "All that went in went into the first sweep too."
    versions = frozen.provenance.get("versions", {})
    if versions and versions == known.get("versions"):
        yield "The versions of all packages are those of the first sweep."
    elif versions:
        said = ", ".join(f"{name} {' or '.join(found)}" for name, found in versions.items())
        yield f"The runs used {escape(said)}."
    else:
        yield "The versions of the packages were not recorded with the runs."


def _captioners(frozen: Frozen) -> Iterator[str]:
    yield r"\subsection*{Captioners}"
    captioners = frozen.provenance.get("captioners", [])
    if not captioners:
        yield (
            "No captioner was used: the captions are written by rules from the scenes behind the images, or came with "
            "them."
        )
    for one in captioners:
        counts = ", ".join(f"{count:,} {state}" for state, count in one.get("captions", {}).items() if count)
        yield (
            rf"\paragraph{{{escape(one['set'])}}} by {escape(one['captioner'])}, {escape(one['prompt_version'])}, "
            rf"parameters \texttt{{{_breakable(one['parameters'])}}}; {escape(counts)}"
            + (f"; {one['cost_usd']:.2f} dollars." if one.get("cost_usd") else ".")
        )
        for role in ("system", "user"):
            if one.get(role):
                yield rf"{role.capitalize()} prompt:\begin{{quote}}\small {_lines(one[role])}\end{{quote}}"


def _compute(grid: Grid, frozen: Frozen) -> Iterator[str]:
    yield r"\subsection*{Compute}"
    hardware, cost = frozen.provenance.get("hardware", []), frozen.provenance.get("cost", {})
    amounts = [f"{cost[key] / unit:,.3g} {name}" for key, (name, unit) in COST_NAMES.items() if key in cost]
    amounts += [f"{in_flops(cost['train_flops'])} of training"] if "train_flops" in cost else []
    yield f"All runs together: {escape(', '.join(amounts))}. Hardware: {escape('; '.join(hardware) or 'not recorded')}."
    yield "What was tried and thrown away before these runs is not counted."


def _checklist(grid: Grid, frozen: Frozen) -> Iterator[tuple[str, str]]:
    told = frozen.provenance
    clean = bool(told.get("commit")) and not told.get("dirty") and bool(frozen.sciences)
    several = len(grid.seeds) > 1
    captioners = told.get("captioners", [])
    shapes = all(s.get("corpus", {}).get("kind") == "shapes" for s in frozen.sciences.values()) and frozen.sciences
    yield "Claims", "Yes. Every number in the text is a macro generated from the frozen records."
    yield "Limitations", AUTHORS
    yield "Theory", "Not applicable: there are no theorems."
    yield (
        "Reproducibility",
        ("Yes. " if clean else "Partly. ") + "Experiments, their hashes, digests of the inputs and the commit are above"
        + ("." if clean else ", but the code had changes that no commit holds, or experiments were not frozen."),
    )  # fmt: skip
    yield (
        "Open access to data and code",
        "Yes. The images and captions are generated by the code." if shapes else AUTHORS,
    )
    yield "Experimental setting", "Yes. The whole recipe is in the table of experiments above."
    yield (
        "Statistical significance",
        (f"Yes. Intervals and tests are over prompts and {number_of_seeds(grid)} training seeds, "
         if several else "Partly. Intervals and tests are over prompts only, with one training seed, ")
        + "paired by prompt and noise, corrected by Holm's method.",
    )  # fmt: skip
    yield (
        "Compute resources",
        "Yes. See Compute, above." if told.get("hardware") else "No. The hardware was not recorded.",
    )
    yield "Code of ethics", AUTHORS
    yield "Broader impacts", AUTHORS
    yield "Safeguards", "Not applicable: generated scenes of plain shapes." if shapes else AUTHORS
    yield "Licenses of existing assets", AUTHORS
    yield "New assets", AUTHORS
    yield "Crowdsourcing", "Not applicable: no people were asked." if shapes else AUTHORS
    yield "Human subjects", "Not applicable: no people were studied." if shapes else AUTHORS
    names = ", ".join(dict.fromkeys(str(one["captioner"]) for one in captioners if one.get("system")))
    yield (
        "Use of language models",
        f"Yes. Captions were written by {escape(names)}, with the prompts above."
        if names
        else "No captions were written by a language model that the harness asked. "
        f"Other uses: {AUTHORS}",
    )  # fmt: skip


def _fields(science: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, str]]:
    for name, value in science.items():
        if isinstance(value, Mapping):
            yield from _fields(value, f"{under}{name}.")
        else:
            yield f"{under}{name}", value if isinstance(value, str) else json.dumps(value)


def _order(grid: Grid, name: str, value: Any) -> int:
    levels = [str(level) for level in grid.results.factors[name]]
    return levels.index(str(value)) if str(value) in levels else len(levels)


def _breakable(text: str) -> str:
    """Escaped, with places where a long line may break."""
    return escape(text).replace(",", r",\allowbreak ").replace(r"\_", r"\_\allowbreak ")


def _lines(text: str) -> str:
    return r"\par ".join(escape(line) for line in text.splitlines() if line.strip())
