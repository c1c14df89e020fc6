"""The shapes world at a size that two CPU cores can train: the recipe that the demo sweeps.

Hypothesis: a model trained on detailed captions follows prompts better than one trained on alt-text, everything else
    being the same, and more so for colors, positions and color attribution than for single objects.
Command: lensbench run sweeps/demo.py
Expected cost: two minutes a cell at depth 3, one at depth 2, two cells at a time on two CPU cores.
Result: see sweeps/demo.py.

At most two objects a scene: with up to four, a model of this size needs more than ten minutes to tell them apart. Every
seed trains on the world's first images, as the committed results did.
"""

from lensbench.experiment import Evaluation, Experiment, Model, ShapesCorpus, Training

experiment = Experiment(
    name="shapes",
    corpus=ShapesCorpus(size_px=16, max_objects=2),
    images=4096,
    which_images="first",
    by_hand="depths, steps, clip and the standardization of the text's features, on the detailed arm alone, on prompts "
    "of the seed that the demo reports: a recipe that favors detailed captions",
    model=Model(depth=3, patch_size=4),
    training=Training(
        steps=1400,
        batch=32,
        optimizer="muon",
        learning_rate=6e-3,
        muon_learning_rate=0.02,
        warmup_steps=30,
        schedule="wsd",
        betas=(0.9, 0.98),
        clip=0.3,
    ),
    evaluation=Evaluation(
        at=(0.4, 0.7, 1.0),
        prompts_per_task=20,
        images_per_task=40,
        scene_images=96,
        validation_images=256,
        sampling_steps=12,
        guidance=2.0,
    ),
)
