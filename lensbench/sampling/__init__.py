"""Images from a checkpoint: sampled once, kept, and read by whatever scores them."""
