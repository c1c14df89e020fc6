"""Does it cost more when captions are wrong than when they leave as much out?

Hypothesis: none; post hoc: asked of the cells of caption_dose after their scores were known. A fifth of the attributes
    wrong is set against a quarter left out, and two fifths wrong against a half.
Command: lensbench run sweeps/caption_dose_tests.py
Expected cost: nothing: the cells are those of sweeps/caption_dose.py.
Result: on short prompts a fifth wrong costs 8.6 points of GenEval's mean more than a quarter left out [0.6, 16.7],
    significant after Holm's correction over the 4 comparisons; on detailed prompts it does not [-8.3, 27.4]. Two fifths
    wrong are not told apart from half left out.
"""

from lensbench.sweep.questions import Question
from sweeps.caption_dose import sweep as doses

QUESTIONS = tuple(
    Question(post_hoc=True, arm={"captions.wrong": wrong}, against={"captions.present": present})
    for wrong, present in ((0.2, 0.75), (0.4, 0.5))
)

sweep = doses.model_copy(update={"name": "caption_dose_tests", "questions": QUESTIONS})
