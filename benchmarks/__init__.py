"""What distnum costs beside its rivals: each module runs alone, ``benchmarks/run.py`` runs all."""
