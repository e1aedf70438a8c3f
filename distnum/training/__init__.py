"""What is trained and how: configuration, job, optimisers, the loop, and what a run keeps.

``train`` and ``loop`` tell the story of a run. ``prepare`` makes a ``job`` of a ``config`` (its fields'
checks: ``fields``) and a ``subject``, the network or function; ``placement`` chooses where it runs;
``keeper`` and ``unfinished`` write what is kept, ``resume`` continues it; ``display`` and ``plots`` show it.

Here belong update rules and schedules, kinds of subjects to train, and what happens between two
steps. Imports ``networks``, ``differentiation``, ``workers``, ``datasets``, ``storage`` and ``common``.
"""
