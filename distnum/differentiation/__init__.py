"""Derivatives of any function by finite differences: schemes, steps, and what the values say of them.

``procedure`` is the course of a differentiation: it evaluates the points of a stencil, judges them, and searches better
steps where they do not fit. Formulas are pure functions of arrays in modules of their own; they evaluate nothing.
Imports ``evaluation``, ``workers`` and ``common``.
"""
