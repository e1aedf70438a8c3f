"""Evaluations on Ray workers that stay for many calls: which worker gets which points, deaths, and time limits.

``backend``, ``dispatch`` and ``actor`` are the driver's and the workers' sides; what needs no Ray is in modules of
its own. Imports the modules of ``evaluation``, ``workers`` and ``common``.
"""
