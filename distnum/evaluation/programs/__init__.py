"""External programs as functions, and working folders for functions that write files.

Imports the modules of ``evaluation`` for forms and values, and ``common``.
"""
