"""Which packages distnum needs, and which of them a node lacks."""

from __future__ import annotations

__all__ = ["REQUIREMENTS", "unmet"]

REQUIREMENTS = "DISTNUM_REQUIREMENTS"


def unmet(requirements: list[str]) -> list[str]:
    """What is missing here, or has a version that does not fit: one text each."""
    from importlib.metadata import PackageNotFoundError, version

    from packaging.requirements import Requirement

    found = []
    for text in requirements:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            there = version(wanted.name)
        except PackageNotFoundError:
            found.append(f"{wanted.name} is missing ({wanted.name}{wanted.specifier} is needed)")
            continue
        if not wanted.specifier.contains(there, prereleases=True):
            found.append(f"{wanted.name} is {there} ({wanted.specifier} is needed)")
    return found
