"""What is on disk or at a URI: run folders with their rows and checkpoints, and copies of remote files.

Add here how files are written, read, locked and mirrored. This folder handles arrays, rows, dicts and the ``State``
of a run; it knows nothing of configurations, networks or training. It imports only ``common``.
"""
