"""The ladder: a few frozen scales that fix everything but the captions, so that caption sets compare."""
