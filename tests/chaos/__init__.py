"""Faults injected into real runs, which must end with the bits of an undisturbed one."""
