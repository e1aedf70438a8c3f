"""Checks of gradients that were written by hand.

Imports the modules of ``differentiation`` and ``evaluation``, and ``common``.
"""
