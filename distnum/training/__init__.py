"""What is trained and how: configuration, job, optimisers, the loop, and what a run keeps.

Here belong update rules and schedules, kinds of subjects to train, and what happens between two
steps. Imports ``networks``, ``differentiation``, ``workers``, ``datasets``, ``storage`` and ``common``.
"""
