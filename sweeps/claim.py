"""Lens's claim on photographs: what are GPT-4.1's detailed captions worth against alt-text, in data and in parameters?

Hypothesis: as in the paper (arXiv 2605.21573): detailed captions are worth more than scale. What the shapes world
    showed, and what is to be seen again or refuted here: the wording of the prompts decides who wins.
Command, for a corpus of 1.4 M images with alt-text (a fifth of it is held out), in 256 px:
    lensbench corpus import 'laion/{00000..00139}.tar' corpus
    lensbench captions write corpus --prompt detailed-v1 --pilot 100
    lensbench captions write corpus --prompt detailed-v1 --set detailed --batch --budget 2000
    lensbench captions write corpus --prompt brief-v1 --set brief --batch --budget 900
    lensbench captions rewrite geneval prompts.jsonl --budget 2
    lensbench plan sweeps/claim.py --corpus corpus --pilot --usd-per-hour 2.5
    lensbench tune sweeps/claim.py --corpus corpus
    lensbench run sweeps/claim.py --corpus corpus --launcher slurm --gpus-per-node 1 --workers 16 --usd-per-hour 2.5
Expected cost (estimates, nothing of it was run): captions $1,670 detailed and $710 brief in batches at the prices of
    2026-05-27 (`captions write --dry-run`); 135 cells of 12.8 M images seen, 0.16 to 1.8 EFLOP each and 106 EFLOP in
    all (`lensbench sizes`), 74 hours of an H100 at 400 TFLOP/s, which models of this size do not reach: plan with two
    to four times that, and as much again for Qwen3-0.6B, which encodes captions as they are read, for their features
    would fill terabytes. At $2.50 an hour $700 to $1,500. The pilot measures what these are.
Result: not run: no GPU and no key were at hand.
"""

from pathlib import Path

from experiments.ladder import medium
from lensbench.sweep.search import Range, Tuning
from sweeps.caption_quality import sweep as quality

base = medium.replace(
    {
        "name": "claim",
        "which_images": "by_seed",
        "corpus.caption_sets": ("alt", "brief", "detailed"),
        "corpus.detailed_prompts": "detailed",
        "training.features": "online",
        "evaluation.detector": "mask2former",
        "evaluation.detector_model": "facebook/mask2former-swin-small-coco-instance",
        "evaluation.color_model": "openai/clip-vit-large-patch14",
        "evaluation.detailed_prompts": Path("prompts.jsonl"),
        "evaluation.prompts_per_task": 100,
        "evaluation.images_per_task": 400,
        "evaluation.prompt_seed": 7,
    }
)
tuning = Tuning(
    search={"training.learning_rate": Range(low=5e-5, high=2e-3, log=True)},
    trials=8,
    steps=5_000,
    at={"images": 262_144, "model.depth": 12},
)
scales = {"images": (65_536, 262_144, 1_048_576), "model.depth": (8, 12, 16)}
sweep = quality.model_copy(
    update={"name": "claim", "base": base, "factors": quality.factors | scales, "tuning": tuning}
)
