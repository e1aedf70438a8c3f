"""The pool of Ray actors: sessions, actors, messages, shared memory, and what happens when a worker dies.

The ``ray`` package is imported in ``ray_module.py`` and inside the actors only. Imports ``workers``
and ``common``.
"""
