"""Does one size beat another where every model sees as many images?

Hypothesis: none; post hoc: asked of the cells of model_size after their scores were known.
Command: lensbench run sweeps/model_size_tests.py
Expected cost: nothing: the cells are those of sweeps/model_size.py, with depth as a part of the arm.
Result: on detailed prompts depth 2 is 18.9 points of GenEval's mean below depth 3 with detailed captions [-9.3, 47.0]
    and depth 4 is 17.2 above it [-21.2, 55.5]: neither is significant after Holm's correction over the 8 comparisons.
    With alt-text no size is told apart from another.
"""

from lensbench.sweep.questions import Question
from sweeps.model_size import sweep as sizes

MIDDLE = 3
QUESTIONS = tuple(
    Question(
        post_hoc=True,
        arm={"captions.set": captions, "model.depth": depth},
        against={"captions.set": captions, "model.depth": MIDDLE},
    )
    for captions in ("detailed", "alt")
    for depth in (2, 4)
)

sweep = sizes.model_copy(
    update={
        "name": "model_size_tests",
        "reference": {"captions.set": "detailed", "model.depth": MIDDLE},
        "questions": QUESTIONS,
    }
)
