"""Where an import reads from: samples in a fixed order, each with its captions, from any place in that order on."""
