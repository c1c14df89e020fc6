"""A mixture of caption sets as it is written: 0.8*detailed+0.2*alt. A name by itself is that set alone."""

from __future__ import annotations

import re
from decimal import Decimal


def canonical(given: str) -> str:
    """A caption set's name as it is; a mixture with its largest share first: one spelling for equal mixtures.

    Raises ValueError for a mixture whose shares do not sum to one, or that is not of the form 0.8*detailed+0.2*alt.
    """
    found = shares(given)
    if len(found) == 1:
        return next(iter(found))
    return "+".join(f"{share.normalize():f}*{name}" for name, share in found.items())


def shares(given: str) -> dict[str, Decimal]:
    """Each set and its share, the largest first. Raises ValueError as `canonical` does."""
    # Decimals, because the shares as they are written must sum to exactly one.
    if "*" not in given:
        return {given: Decimal(1)}
    found: dict[str, Decimal] = {}
    for part in given.split("+"):
        match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\*([^*]+)", part.strip())
        if match is None:
            raise ValueError(f"{given!r}: a mixture is written as in 0.8*detailed+0.2*alt; {part.strip()!r} is not")
        share, name = Decimal(match[1]), match[2].strip()
        if name in found:
            raise ValueError(f"{given!r}: {name} is there twice")
        found[name] = share
    if sum(found.values()) != 1:
        raise ValueError(f"{given!r}: the shares sum to {sum(found.values())}, not to 1")
    drawn = [(name, share) for name, share in found.items() if share]
    return dict(sorted(drawn, key=lambda part: (-part[1], part[0])))
