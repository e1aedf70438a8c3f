"""Performance measurements: ``python -m benchmarks`` runs all, ``python -m benchmarks.MODULE`` runs one."""
