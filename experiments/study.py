"""The shapes world at a size that a study of many cells can afford: what the first study's sweeps share.

Hypothesis: none of its own; see sweeps/caption_quality.py, sweeps/caption_dose.py and sweeps/model_size.py.
Command: lensbench run sweeps/model_size.py, and the others
Expected cost: half a minute to six minutes a cell on one CPU core, by depth and captions.
Result: results/caption_quality, results/caption_dose, results/model_size.

19,200 images seen, under half of the demo's, for a budget of two CPU cores: the larger models are in the middle of
learning to bind words to places. The prompts have a seed of their own: no recipe was tuned on them.
"""

from experiments.shapes import experiment as shapes

experiment = shapes.replace(
    {
        "name": "study",
        "by_hand": "clip and the standardization of the text's features, on the demo's detailed arm and prompts; batch "
        "and steps, on the detailed arm at depth 3, on prompts of their own: a recipe that favors detailed captions",
        "images": 4096,
        "training.steps": 600,
        "training.batch": 32,
        "evaluation.at": (0.5, 1.0),
        "evaluation.prompts_per_task": 24,
        "evaluation.images_per_task": 24,
        "evaluation.sampling_steps": 10,
        "evaluation.guidances": (1.0, 4.0),
        "evaluation.prompt_seed": 7,
    }
)
