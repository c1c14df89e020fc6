"""Sweeps: the cells of a question, run once each."""
