"""What a sweep file imports, and what the commands do with it: `from lensbench.sweep.sweep import Sweep`."""

from lensbench.sweep.collecting import Results, collect
from lensbench.sweep.design import NONE, Cell, Sweep, cells, drafts
from lensbench.sweep.questions import Question
from lensbench.sweep.recipe import load, load_recipe, opened
from lensbench.sweep.search import Range, Tuning

__all__ = [
    "NONE",
    "Cell",
    "Question",
    "Range",
    "Results",
    "Sweep",
    "Tuning",
    "cells",
    "collect",
    "drafts",
    "load",
    "load_recipe",
    "opened",
]
