"""Check the installed packages of a node against distnum's requirements."""

from __future__ import annotations

__all__ = ["REQUIREMENTS", "unmet"]

REQUIREMENTS = "DISTNUM_REQUIREMENTS"
"""Environment variable that gives a cluster's nodes the requirements."""


def unmet(requirements: list[str]) -> list[str]:
    """Return a text for each requirement whose package is missing or has another version.

    Args:
        requirements: Requirements in the form of PEP 508, such as ``"numpy>=1.26"``. Those whose marker does not hold
            here are left out.
    """
    from importlib.metadata import PackageNotFoundError, version

    from packaging.requirements import Requirement

    problems = []
    for text in requirements:
        required = Requirement(text)
        if required.marker is not None and not required.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(required.name)
        except PackageNotFoundError:
            problems.append(f"{required.name} is missing ({required.name}{required.specifier} is needed)")
            continue
        if not required.specifier.contains(installed, prereleases=True):
            problems.append(f"{required.name} is {installed} ({required.specifier} is needed)")
    return problems
