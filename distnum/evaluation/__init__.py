"""Evaluations of a user's function at many points: in this process, by a map or an executor, or on Ray workers.

Here belong the form of arguments and values, calls with their failures, time limits and retries,
and the ``Evaluator``. Nothing here knows why a point is wanted. Imports ``workers``, ``storage``
and ``common``.
"""
