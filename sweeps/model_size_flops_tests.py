"""Does one size beat another where every model spends as much compute?

Hypothesis: none; post hoc: asked of the cells of model_size_flops after their scores were known.
Command: lensbench run sweeps/model_size_flops_tests.py
Expected cost: nothing: the cells are those of sweeps/model_size_flops.py, with depth as a part of the arm.
Result: on detailed prompts depth 4 is 19.1 points of GenEval's mean below depth 3 with detailed captions [-6.8, 45.0]
    and depth 2 is 43.2 above it [-94.5, 100]: neither is significant after Holm's correction over the 8 comparisons.
    With alt-text no size is told apart from another.
"""

from sweeps.model_size_flops import sweep as flops
from sweeps.model_size_tests import sweep as tests

sweep = tests.model_copy(update={"name": "model_size_flops_tests", "match": flops.match})
