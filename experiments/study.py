"""The shapes world at a size that a study of many cells can afford: what the first study's three sweeps share.

Hypothesis: none of its own; see sweeps/caption_quality.py, sweeps/caption_dose.py and sweeps/model_size.py.
Command: lensbench run sweeps/model_size.py, and the others
Expected cost: half a minute to a minute and a half a cell on one CPU core, by depth.
Result: results/caption_quality, results/caption_dose, results/model_size.

Half the demo's batch, for a budget of two CPU cores. The prompts have a seed of their own: no recipe was tuned on them.
"""

from experiments.shapes import experiment as shapes

experiment = shapes.replace(
    {
        "name": "study",
        "images": 4096,
        "training.steps": 1000,
        "training.batch": 16,
        "evaluation.prompts_per_task": 24,
        "evaluation.images_per_task": 24,
        "evaluation.guidances": (1.0, 4.0),
        "evaluation.prompt_seed": 7,
    }
)
