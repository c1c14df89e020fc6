"""Which size is best where every model spends as much compute, and what are detailed captions worth at each?

Hypothesis: at this budget the middle depth is best: the smallest cannot bind words to places, the largest sees too few
    images. Detailed captions are longer, so their arm sees fewer images, and is better all the same.
Command: lensbench run sweeps/model_size_flops.py, after lensbench tune sweeps/caption_quality.py
Expected cost: 18 cells, 20 minutes on two CPU cores.
Result: not the middle but the smallest depth scores highest: on detailed prompts detailed captions reach 62, 19 and 0 %
    of GenEval at depths 2, 3 and 4, alt-text 2.5, 4.2 and 1.3 %. Depth 4 has too few steps for anything (268 and 436).
    sweeps/model_size_flops_tests.py tests them.
"""

from sweeps.model_size import sweep as samples

sweep = samples.model_copy(update={"name": "model_size_flops", "match": "flops"})
