"""Studies: what is to be differentiated, as a TOML file says it, and the files of the result.

Add here what the commands ``differentiate`` and ``check`` need besides the library: reading a study, finding a function
by its name, writing a derivative. How derivatives are computed belongs in ``differentiation``. Imports
``differentiation``, ``evaluation``, ``storage`` and ``common``; only ``cli`` imports this folder.
"""
