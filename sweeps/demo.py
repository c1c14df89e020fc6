"""How much are better captions worth on the shapes world, at two depths?

Hypothesis: detailed captions beat alt-text on colors, position and color attribution, and more so at the larger depth;
    brief captions may win on short prompts, which are worded like them.
Command: lensbench run sweeps/demo.py
Expected cost: 12 cells, about 14 minutes on two CPU cores.
Result: at depth 3 and on detailed prompts detailed captions reach 60.0 % of GenEval, alt-text 4.2 %. Colors +83.8
    points [70.0, 94.7]; position +31.3 and color attribution +30.0, not clear of zero with two seeds. On short prompts
    brief captions win (+29.0 [21.5, 35.6]). Depth 1 learns nothing.
"""

from experiments.shapes import experiment
from lensbench.sweep.sweep import Sweep

sweep = Sweep(
    name="demo",
    base=experiment,
    factors={"captions.set": ("alt", "brief", "detailed"), "model.depth": (2, 3), "seed": (0, 1)},
    reference={"captions.set": "alt"},
)
