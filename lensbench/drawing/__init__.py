"""Pictures from a checkpoint: what draws, what is drawn, and the folder it goes to."""
