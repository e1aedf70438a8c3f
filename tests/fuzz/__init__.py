"""Damaged files of every kind that is read: only clear errors come of them."""
