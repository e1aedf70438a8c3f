"""Damaged files of every kind that distnum reads must give clear errors."""
