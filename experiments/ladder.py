"""The ladder: five frozen scales that fix everything but the captions.

Hypothesis: none of its own; a caption set is better at a scale when the models trained on it score higher there.
Command: lensbench bench CAPTIONS --scale smoke
Expected cost: said of each scale below, for three seeds.
Result: results/ladder/, LADDER.md.

A released scale never changes: tests/ladder/test_bench.py holds its hash, and a change is a new version. Evaluation
prompts have a seed of their own, which nothing else in this project uses: no recipe was tuned on them.
"""

from lensbench.experiment import (
    Autoencoder,
    Buckets,
    Captions,
    Evaluation,
    Experiment,
    FolderCorpus,
    Model,
    ShapesCorpus,
    TextEncoder,
    Training,
)
from lensbench.ladder.scale import Scale

PROMPT_SEED = 2025
SEEDS = (0, 1, 2)

_shapes = Evaluation(
    at=(0.4, 0.7, 1.0),
    prompts_per_task=32,
    images_per_task=32,
    scene_images=128,
    validation_images=256,
    sampling_steps=12,
    guidance=2.0,
    guidances=(1.0, 4.0),
    prompt_seed=PROMPT_SEED,
)

smoke = Experiment(
    name="smoke",
    corpus=ShapesCorpus(size_px=16, max_objects=2, world_seed=0),
    images=4096,
    which_images="first",  # a captioner must know which images to caption
    captions=Captions(dropout=0.1),
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
    evaluation=_shapes,
)

small = smoke.replace(
    {
        "corpus.size_px": 64,
        "corpus.max_objects": 4,
        "images": 32768,
        "model.depth": 6,
        "model.patch_size": 8,
        "training.steps": 12000,
        "training.batch": 64,
        "evaluation.prompts_per_task": 64,
        "evaluation.images_per_task": 128,
        "evaluation.scene_images": 512,
        "evaluation.validation_images": 1024,
        "evaluation.sampling_steps": 16,
    }
)

_photographs = Evaluation(
    at=(0.25, 0.5, 0.75, 1.0),
    scene_images=10_000,
    validation_images=10_000,
    sampling_steps=20,
    guidance=5.0,
    guidances=(1.0, 3.0),
    prompt_seed=PROMPT_SEED,
)

medium = Experiment(
    name="medium",
    corpus=FolderCorpus(size_px=256, caption_sets=("alt",), short_prompts="alt", detailed_prompts="alt"),
    images=1_000_000,
    which_images="first",
    captions=Captions(set="alt", dropout=0.1),
    text_encoder=TextEncoder(kind="qwen3"),
    autoencoder=Autoencoder(kind="flux2"),
    model=Model(depth=16, patch_size=2),
    training=Training(steps=50_000, batch=256, optimizer="adamw", learning_rate=2e-4, clip=1.0, precision="bf16"),
    evaluation=_photographs,
)

large = medium.replace({"images": 10_000_000, "model.depth": 24, "training.steps": 100_000, "training.batch": 512})

# Lens-Toy's own stage: 1.2 B, 130 M images, in the sizes of the paper's second stage up to 512 px (arXiv 2605.21573).
paper = medium.replace(
    {
        "corpus.size_px": 512,
        "images": 130_000_000,
        "model.depth": 32,
        "training.steps": 400_000,
        "training.batch": 3072,
        "training.buckets": Buckets(sides=(512,)),
        "training.activation_checkpointing": True,
    }
)

SCALES = {
    "smoke": Scale("smoke", 1, smoke, SEEDS, "three to six minutes on two CPU cores (measured)"),
    "small": Scale("small", 1, small, SEEDS, "under an hour on one GPU, a night on two CPU cores (not measured)"),
    "medium": Scale("medium", 1, medium, SEEDS, "one GPU-day a seed (an estimate, not measured)"),
    "large": Scale("large", 1, large, SEEDS, "eight GPU-days a seed (an estimate, not measured)"),
    "paper": Scale("paper", 1, paper, SEEDS, "Lens-Toy on 130 M images: thousands of GPU-hours (an estimate)"),
}
