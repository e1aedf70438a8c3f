"""Which points are evaluated for a derivative, and with which weights: schemes, steps, bounds.

Pure functions of arrays. Imports ``common``.
"""
