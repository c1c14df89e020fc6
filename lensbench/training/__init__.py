"""Training: batches, loss, optimizer, checkpoints."""
