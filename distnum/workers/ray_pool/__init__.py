"""The pool of Ray actors: sessions, actors, messages, shared memory, and what happens when a worker dies.

- ``pool``: one turn after the other. Start reading here.
- ``gather``: what happens in a turn, also when a worker dies or is late, with ``backlog`` (tiles
  that are left), ``pending`` (replies that are due) and ``deadlines``.
- ``team``: what any kind of actors needs, also those that evaluate functions (``evaluation/ray_workers/backend.py``).
- ``roster``, ``starting``: the workers that there are, and their replacement.
- ``channel``, ``messages``, ``serving``, ``actor``: messages, and the worker's side of them. ``reasons``: why a
  worker failed. ``shared_memory``: mapped files.
- ``session``, ``folder``, ``ray_module``, ``address``, ``streams``, ``cluster``: Ray itself.
- ``watch``, ``guarded``: calls of Ray that end when its servers are lost.

The ``ray`` package is imported in ``ray_module.py`` and inside the actors only. Imports ``workers``
and ``common``.
"""
