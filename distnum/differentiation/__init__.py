"""Finite differences of any function: schemes, steps, and the gradient of a Python function.

Here belong formulas for differences and their steps, and objectives that know nothing of a
function's structure. Imports ``workers`` and ``common``.
"""
