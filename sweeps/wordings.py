"""Who leads the demo in wordings that no caption uses, and with the guidance that is best for each arm?

Hypothesis: detailed captions lead in their own words (detailed, relational) and lose most of it without places and in
    the held-out form, where no arm is asked in its own words. Alt-text needs more guidance than the others.
Command: lensbench run sweeps/demo.py; lensbench run sweeps/wordings.py
Expected cost: no training; 4,704 images a cell of the demo, three times what the demo itself samples.
Result: not run as a whole. One cell (detailed captions, depth 3, seed 0) reaches 95 % in detailed prompts, 35 % in
    held-out ones, 18 % in relational ones and 11 % in short ones; position is 0 % wherever no place is named.
"""

from experiments.shapes import experiment
from lensbench.experiment import further_guidances
from sweeps.demo import sweep as demo

base = experiment.replace(
    {
        "name": "wordings",
        "evaluation.forms": ("short", "detailed", "relational", "held_out"),
        "evaluation.at": (1.0,),
        "evaluation.images_per_task": 20,
        "evaluation.guidances": further_guidances(experiment.evaluation.guidance),
        "evaluation.prompt_seed": 7,
        "evaluation.choosing_seed": 11,
    }
)
sweep = demo.model_copy(update={"name": "wordings", "base": base})
