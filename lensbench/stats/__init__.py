"""Intervals and tests, as mathematics: nothing here knows of sweeps, arms or tables."""
