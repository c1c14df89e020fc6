"""How much are better captions worth on the shapes world, at two depths?

Hypothesis: detailed captions beat alt-text on colors, position and color attribution, and more so at the larger depth;
    brief captions may win on short prompts, which are worded like them.
Command: lensbench run sweeps/demo.py
Expected cost: 12 cells, nine minutes on two CPU cores.
Result: at depth 3 and on detailed prompts detailed captions reach 99.0 % of GenEval, alt-text 4.8 %: +94.2 points
    [88.6, 98.9]; position +98.8 [81.9, 100], color attribution +96.3 [88.0, 100]. At depth 2 they reach 40.6 %. On
    short prompts brief captions lead with 42.3 %, and detailed captions are no better than alt-text.
"""

from experiments.shapes import experiment
from lensbench.sweep.sweep import Sweep

sweep = Sweep(
    name="demo",
    base=experiment,
    factors={"captions.set": ("alt", "brief", "detailed"), "model.depth": (2, 3), "seed": (0, 1)},
    reference={"captions.set": "alt"},
)
