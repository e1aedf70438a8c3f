"""What the values at the points of a stencil say: noise, errors, the status of each entry, and where to look next.

Pure functions of arrays, but for the state of a search. Imports ``stencils`` and ``common``.
"""
