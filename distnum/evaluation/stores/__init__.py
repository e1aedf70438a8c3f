"""A backend that keeps every evaluation in a store, and the keys by which evaluations are found again.

Imports the modules of ``evaluation``, ``storage`` (where the files are), and ``common``.
"""
