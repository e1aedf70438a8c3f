"""Sparse Jacobians: coordinates that share evaluations, and the confirmation of their pattern.

Imports the modules of ``differentiation`` and ``evaluation``, and ``common``.
"""
