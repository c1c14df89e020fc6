"""Which size is best where every model spends as much compute, and what are detailed captions worth at each?

Hypothesis: at this budget the middle depth is best: the smallest cannot bind words to places, the largest sees too few
    images. Detailed captions are longer, so their arm sees fewer images, and is better all the same.
Command: lensbench run sweeps/model_size_flops.py, after lensbench tune sweeps/caption_quality.py
Expected cost: 18 cells, a quarter of an hour on two CPU cores (an estimate).
Result: not run yet.
"""

from sweeps.model_size import sweep as samples

sweep = samples.model_copy(update={"name": "model_size_flops", "match": "flops"})
