"""How much are better captions worth on the shapes world, at two depths?

Hypothesis: detailed captions beat alt-text on colors, position and color attribution, and more so at the larger depth;
    brief captions may win on short prompts, which are worded like them.
Command: lensbench run sweeps/demo.py
Expected cost: 12 cells, nine minutes on two CPU cores.
Result: at depth 3 and on detailed prompts detailed captions reach 97.9 % of GenEval, alt-text 7.1 %: +90.8 points
    [78.6, 100]; position +98.8 [81.9, 100], color attribution +95.0 [83.0, 100]. At depth 2 they reach 42.3 %. On
    short prompts brief captions lead with 41.2 %, and detailed captions are no better than alt-text.
"""

from experiments.shapes import experiment
from lensbench.sweep.sweep import Sweep

sweep = Sweep(
    name="demo",
    base=experiment,
    factors={"captions.set": ("alt", "brief", "detailed"), "model.depth": (2, 3), "seed": (0, 1)},
    reference={"captions.set": "alt"},
)
