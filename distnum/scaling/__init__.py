"""How the steps of a job scale with workers and threads: measure, summarise, model, forecast, report.

Add here what is measured of whole steps, and what is computed and reported from the measurements. How steps
are computed belongs in ``workers``, ``networks`` and ``training``. Imports ``training`` and the folders below
it; only ``cli`` imports this folder.
"""
