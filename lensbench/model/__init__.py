"""The Lens model: denoiser, flow matching, frozen text encoder, autoencoder, checkpoints."""
