"""How much do captions teach with a known share of a scene's attributes in them, and a known share of those wrong?

Hypothesis: the score rises with the share present and falls with the share wrong; a model taught with no attribute is
    no better than one taught with the captions of other images. A tenth of a percent more dropout changes nothing: the
    A/A control.
Command: lensbench run sweeps/caption_dose.py
Expected cost: 45 cells, half an hour on two CPU cores (an estimate).
Result: not run yet.
"""

from experiments.study import experiment
from lensbench.sweep.sweep import Sweep

PRESENT, WRONG, SHUFFLED, DROPOUT = (f"captions.{name}" for name in ("present", "wrong", "shuffled", "dropout"))
CONTROLS = ({SHUFFLED: True}, {DROPOUT: 0.101})  # each of the whole caption alone

sweep = Sweep(
    name="caption_dose",
    base=experiment.replace({"captions.set": "dose", "images": 2048}),
    factors={
        "captions.set": ("dose",),
        PRESENT: (1.0, 0.75, 0.5, 0.25, 0.0),
        WRONG: (0.0, 0.2, 0.4),
        SHUFFLED: (False, True),
        DROPOUT: (0.1, 0.101),
        "seed": (0, 1, 2),
    },
    exclude=(
        *({PRESENT: 0.0, WRONG: wrong} for wrong in (0.2, 0.4)),  # nothing is said that could be wrong
        *(control | {PRESENT: present} for control in CONTROLS for present in (0.75, 0.5, 0.25, 0.0)),
        *(control | {WRONG: wrong} for control in CONTROLS for wrong in (0.2, 0.4)),
        CONTROLS[0] | CONTROLS[1],
    ),
    reference={"captions.set": "dose", PRESENT: 1.0, WRONG: 0.0, SHUFFLED: False, DROPOUT: 0.1},
)
