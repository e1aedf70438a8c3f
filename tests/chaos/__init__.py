"""Inject faults into real runs, which must end with the same bits as undisturbed runs."""
