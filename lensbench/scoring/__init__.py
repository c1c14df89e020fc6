"""Scores: the same protocol for every arm, blind to which arm it is."""
