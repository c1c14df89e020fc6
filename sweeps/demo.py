"""How much are better captions worth on the shapes world, at two depths?

Hypothesis: detailed captions beat alt-text on colors, position and color attribution, and more so at the larger depth;
    brief captions may win on short prompts, which are worded like them.
Command: lensbench run sweeps/demo.py
Expected cost: 12 cells, about 13 minutes on two CPU cores.
Result: not measured yet.
"""

from experiments.shapes import experiment
from lensbench.sweep.sweep import Sweep

sweep = Sweep(
    name="demo",
    base=experiment,
    factors={"captions.set": ("alt", "brief", "detailed"), "model.depth": (1, 3), "seed": (0, 1)},
    reference={"captions.set": "alt"},
)
