"""Captions: separate, versioned texts keyed by image, and the policies that draw from them."""
