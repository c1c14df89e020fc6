"""How much do captions teach with a known share of a scene's attributes in them, and a known share of those wrong?

Hypothesis: the score rises with the share present and falls with the share wrong. Two controls: captions of other
    images teach no more than "a picture", the caption that says nothing, which makes a model unconditional; and an arm
    against itself on other training seeds (A/A) shows no difference.
    All have the base's rates: what differs is what is said.
Command: lensbench run sweeps/caption_dose.py
Expected cost: 51 cells, 40 minutes on two CPU cores.
Result: on detailed prompts 0.3 % of GenEval where captions say nothing, 8, 12, 15 and 18 % as a quarter to all
    attributes are in them; complete ones with a fifth of those wrong 5 %. Of the 14 comparisons two are significant:
    without attributes -17.3 points [-31.8, -2.9], with half of them -5.4 [-9.9, -1.0]. Captions of other images cannot
    be told from captions that say nothing; of six A/A comparisons none has a p value under 0.05.
"""

from experiments.study import experiment
from lensbench.sweep.questions import Question
from lensbench.sweep.sweep import Sweep

SET, PRESENT, WRONG, SHUFFLED = "captions.set", "captions.present", "captions.wrong", "captions.shuffled"
SEEDS, FURTHER_SEEDS = (0, 1, 2), (3, 4, 5)
NOTHING = {PRESENT: 0.0, WRONG: 0.0, SHUFFLED: False}
OF_OTHERS = {PRESENT: 1.0, WRONG: 0.0, SHUFFLED: True}

sweep = Sweep(
    name="caption_dose",
    base=experiment.replace({SET: "dose"}),
    factors={
        SET: ("dose",),
        PRESENT: (1.0, 0.75, 0.5, 0.25, 0.0),
        WRONG: (0.0, 0.2, 0.4),
        SHUFFLED: (False, True),
        "seed": SEEDS + FURTHER_SEEDS,
    },
    exclude=(
        *({PRESENT: 0.0, WRONG: wrong} for wrong in (0.2, 0.4)),  # nothing is said that could be wrong
        *({SHUFFLED: True, PRESENT: present} for present in (0.75, 0.5, 0.25, 0.0)),
        *({SHUFFLED: True, WRONG: wrong} for wrong in (0.2, 0.4)),
        *({"seed": seed, PRESENT: present} for seed in FURTHER_SEEDS for present in (0.75, 0.25)),
        *({"seed": seed, WRONG: wrong} for seed in FURTHER_SEEDS for wrong in (0.2, 0.4)),
        *({"seed": seed, SHUFFLED: True} for seed in FURTHER_SEEDS),
    ),
    reference={SET: "dose", PRESENT: 1.0, WRONG: 0.0, SHUFFLED: False},
    questions=(
        *(Question(arm={PRESENT: present}) for present in (0.75, 0.5, 0.25, 0.0)),
        *(Question(arm={WRONG: wrong}) for wrong in (0.2, 0.4)),
        Question(arm=OF_OTHERS, against=NOTHING),
    ),
)
