"""How much are better captions worth on the shapes world, at two depths?

Hypothesis: detailed captions beat alt-text at both depths, and the shallow model with detailed captions matches the
    deep one with alt-text.
Command: lensbench run sweeps/demo.py
Expected cost: 12 cells, about 25 minutes on two CPU cores.
Result: not measured yet.
"""

from experiments.shapes import experiment
from lensbench.sweep.sweep import Sweep

sweep = Sweep(
    name="demo",
    base=experiment.replace({"training.steps": 600}),
    factors={"captions.set": ("alt", "brief", "detailed"), "model.depth": (2, 4), "seed": (0, 1)},
    reference={"captions.set": "alt"},
)
