"""Training one cell."""
