"""How wrong the judge is: its error on held-out pictures, as the table that is shipped beside its weights.

`lensbench judge check` prints it. Held out are the scenes: no training picture or caption comes from their stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lensbench.captions.scene_writer import claims, dosed, wording
from lensbench.data.shapes import boxes, render
from lensbench.scoring.detectors import Judged, ShapesJudge, overlap
from lensbench.scoring.judge_captions import CHANGES, changed, errors, said
from lensbench.scoring.judge_nothing import NOTHING, empty_pictures
from lensbench.scoring.judge_pictures import HELD_OUT, degrade, judge_scene
from lensbench.streams import numpy_stream

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from lensbench.data.scenes import Scene

SIZES_PX = (16, 24, 32, 64)  # every size of the shapes world that a recipe uses: a test walks them
Row = tuple[str, str, str, float, int]
_TITLES = {
    "detection": "Objects in held-out renders",
    "imperfect": "Objects in held-out renders that were warped, blurred, tinted and noised",
    "nothing": "Share of pictures without an object in which one is found",
    "alignment": "How often a caption beats the caption of the scene with one thing changed",
    "dose": "Mean alignment of detailed captions by the share of their claims that is false",
}


def error_table(judge: ShapesJudge, scenes: int = 2000) -> pd.DataFrame:
    """The judge's error as rows (part, case, measure, value, n): n is the number of pictures behind a value.

    part: "detection", "imperfect", "nothing", "alignment" or "dose"; case: the side in pixels, the kind of picture, the
    change with the form of the caption, or the false share. Every part is measured at each of `SIZES_PX`.
    """
    import pandas as pd

    held_out = [judge_scene(HELD_OUT, index) for index in range(scenes)]
    rows: list[Row] = []
    for size_px in SIZES_PX:
        images = pictures(held_out, size_px)
        worn = degrade(
            numpy_stream(0, f"{HELD_OUT}/worn", size_px), images, clean=torch.zeros(scenes, dtype=torch.bool)
        )
        for part, shown in (("detection", images), ("imperfect", worn)):
            found = detection(held_out, size_px, judge.judge(shown))
            rows += [(part, f"{size_px} px", name, value, scenes) for name, value in found.items()]
        rows += nothing(judge, size_px, scenes // 4)
        rows += alignment(judge, size_px, scenes // 4)
        rows += dose(judge, size_px, scenes // 4)
    return pd.DataFrame(rows, columns=["part", "case", "measure", "value", "n"])


def markdown(table: pd.DataFrame, digest: str) -> str:
    """The error table as a page."""
    lines = [
        "# The shapes judge: measured error",
        "",
        f"Weights sha256 `{digest}`, made by `lensbench judge train`, which also writes this page.",
        f"All scenes are held out (stream `{HELD_OUT}`). A detection is right when its class is the object's and the",
        "boxes share more than half (intersection over union). A count is exact when every class has as many",
        "detections above 0.9 as the scene has objects. Sizes are those of the pictures, which are judged at 32 px.",
    ]
    for part, title in _TITLES.items():
        rows = table[table["part"] == part]
        wide = rows.pivot_table(index="case", columns="measure", values="value", sort=False)
        n = rows.groupby("case", sort=False)["n"].first()
        lines += ["", f"## {title}", "", f"| | {' | '.join(map(str, wide.columns))} | n |"]
        lines += ["|---" * (len(wide.columns) + 2) + "|"]
        lines += [
            f"| {case} | {' | '.join(f'{v:.4f}' for v in values)} | {n[case]} |"
            for case, values in zip(wide.index, wide.to_numpy(), strict=True)
        ]
    return "\n".join(lines) + "\n"


def write_table(judge: ShapesJudge, path: Path) -> None:
    """Measure the judge and write the page."""
    path.write_text(markdown(error_table(judge), judge.digest), encoding="utf-8")


def main() -> None:
    """Measure the shipped judge and print the page."""
    judge = ShapesJudge.load()
    judge.self_test()
    print(markdown(error_table(judge), judge.digest))


def pictures(held_out: list[Scene], size_px: int) -> Tensor:
    """The scenes as the renderer draws them: float (N, 3, size_px, size_px) in [0, 1]."""
    return torch.from_numpy(np.stack([render(one, size_px) for one in held_out])).permute(0, 3, 1, 2) / 255


def detection(held_out: list[Scene], size_px: int, judged: list[Judged]) -> dict[str, float]:
    """Recall, precision, color, count and box error over all scenes, at GenEval's two thresholds."""
    truth = found_03 = found_09 = claimed_03 = claimed_09 = colors = counted = 0
    overlaps: list[float] = []
    for one, seen in zip(held_out, judged, strict=True):
        truth += len(one.objects)
        claimed = [(name, i, box) for name, group in seen.detections.items() for i, box in enumerate(group)]
        claimed_03 += sum(box[4] > 0.3 for _, _, box in claimed)
        claimed_09 += sum(box[4] > 0.9 for _, _, box in claimed)
        shapes = [item.shape for item in one.objects]
        sure = [name for name, _, box in claimed if box[4] > 0.9]
        counted += sorted(shapes) == sorted(sure)
        free = dict.fromkeys(range(len(claimed)))
        for item, true_box in zip(one.objects, boxes(one, size_px), strict=True):
            fits = [(overlap(true_box, claimed[k][2]), k) for k in free if claimed[k][0] == item.shape]  # type: ignore[arg-type]
            share, k = max(fits, default=(0.0, -1))
            if share > 0.5 and claimed[k][2][4] > 0.3:
                del free[k]
                name, i, box = claimed[k]
                found_03 += 1
                found_09 += box[4] > 0.9
                colors += seen.colors[name][i] == item.color
                overlaps.append(share)
    return {
        "recall > 0.3": found_03 / truth,
        "precision > 0.3": found_03 / max(claimed_03, 1),
        "recall > 0.9": found_09 / truth,
        "precision > 0.9": found_09 / max(claimed_09, 1),
        "color": colors / max(found_03, 1),
        "count exact": counted / len(held_out),
        "mean IoU": float(np.mean(overlaps)) if overlaps else 0.0,
    }


def nothing(judge: ShapesJudge, size_px: int, count: int) -> list[Row]:
    """The share of empty pictures of each kind in which an object is found, at GenEval's two thresholds."""
    rows = []
    for kind in NOTHING:
        seen = judge.judge(empty_pictures(kind, size_px, count))
        best = [max((box[4] for group in one.detections.values() for box in group), default=0.0) for one in seen]
        for threshold in (0.3, 0.9):
            share = float(np.mean([score > threshold for score in best]))
            rows.append(("nothing", kind, f"{size_px} px > {threshold}", share, count))
    return rows


def alignment(judge: ShapesJudge, size_px: int, count: int) -> list[Row]:
    """How often the right caption beats the wrong one, for each change and for detailed captions and any length."""
    rows = []
    for change in CHANGES:
        for form in ("any length", "detailed"):
            right, wrong, shown = hard_pairs(change, form, count)
            images = pictures(shown, size_px)
            wins = judge.alignment(images, right) > judge.alignment(images, wrong)
            rows.append(("alignment", f"{change}, {form}", f"{size_px} px", float(np.mean(wins)), count))
    return rows


def hard_pairs(change: str, form: str, count: int) -> tuple[list[str], list[str], list[Scene]]:
    """(right captions, wrong captions, scenes): the wrong one is worded like the right one, for a changed scene."""
    right: list[str] = []
    wrong: list[str] = []
    shown: list[Scene] = []
    index = 0
    say = claims if form == "detailed" else said
    while len(shown) < count:
        one = judge_scene(HELD_OUT, index)
        name = f"{HELD_OUT}/{change}/{form}"
        other = changed(one, change, numpy_stream(0, name, index))
        index += 1
        if other is None:
            continue
        true, false = say(one, numpy_stream(1, name, index)), say(other, numpy_stream(1, name, index))
        if errors([one], [false])[0, 0] == 0:
            continue  # the short caption of the changed scene does not mention the change
        right.append(wording(true, numpy_stream(2, name, index)))
        wrong.append(wording(false, numpy_stream(2, name, index)))
        shown.append(one)
    return right, wrong, shown


def dose(judge: ShapesJudge, size_px: int, count: int) -> list[Row]:
    """Mean alignment of detailed captions with a known share of false claims."""
    shown = [judge_scene(HELD_OUT, index) for index in range(count)]
    images, rows = pictures(shown, size_px), []
    for wrong in (0.0, 0.25, 0.5, 0.75, 1.0):
        texts = []
        for index, one in enumerate(shown):
            rng = numpy_stream(0, f"{HELD_OUT}/dose", index)
            texts.append(wording(dosed(one, claims(one, rng), 1.0, wrong, rng), rng))
        mean = float(judge.alignment(images, texts).mean())
        rows.append(("dose", f"{wrong:.0%} false", f"{size_px} px", mean, count))
    return rows
