"""Which size is best where every model sees as many images, and what are detailed captions worth at each?

Hypothesis: with the same images seen the deeper model is better in both arms, and detailed captions gain more from it.
Command: lensbench run sweeps/model_size.py, after lensbench tune sweeps/caption_quality.py
Expected cost: nothing after caption_quality, whose cells these are; alone 18 cells, a quarter of an hour on two CPU
    cores (an estimate).
Result: the deeper the higher: on detailed prompts detailed captions reach 0.2, 19 and 36 % of GenEval at depths 2, 3
    and 4, alt-text 0, 2 and 3 %. sweeps/model_size_tests.py tests them.

sweeps/model_size_flops.py asks the same where every model spends as much compute.
"""

from experiments.study import experiment
from lensbench.sweep.sweep import Sweep

sweep = Sweep(
    name="model_size",
    base=experiment,
    factors={"captions.set": ("alt", "detailed"), "model.depth": (2, 3, 4), "seed": (0, 1, 2)},
    reference={"captions.set": "alt"},
    match="samples",
    match_to="base",
    tuned_by="caption_quality",
)
