"""The shapes world at a size two CPU cores can train: the recipe the demo sweeps.

Hypothesis: a model trained on detailed captions follows prompts better than one trained on alt-text, everything else
    being the same, and more so for positions and attributes than for single objects.
Command: lensbench run sweeps/demo.py
Expected cost: about two minutes a cell on two CPU cores.
Result: not measured yet.
"""

from lensbench.experiment import Experiment

experiment = Experiment(name="shapes")
