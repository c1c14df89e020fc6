"""How much are your better captions worth on your photographs?

Put images in a folder, say photos, each with two captions beside it: cat.jpg, cat.alt.txt, cat.detailed.txt.

Hypothesis: the held-out loss falls faster with detailed captions than with alt-text, at the same images, order and
    noise; a few hundred photographs show the machinery, not an effect.
Command: lensbench run sweeps/folder.py --corpus photos
Expected cost: 4 cells, a few minutes on two CPU cores (an estimate, not measured).
Result: not measured yet.
"""

from lensbench.experiment import Experiment, FolderCorpus, Model, Training
from lensbench.sweep.sweep import Sweep

sweep = Sweep(
    name="folder",
    base=Experiment(
        name="folder",
        corpus=FolderCorpus(size_px=32, caption_sets=("alt", "detailed")),
        model=Model(depth=3, patch_size=4),
        training=Training(steps=150, batch=16),
    ),
    factors={"captions.set": ("alt", "detailed"), "seed": (0, 1)},
    reference={"captions.set": "alt"},
)
