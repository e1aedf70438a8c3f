"""Data sets and the examples in them: arrays checked for use, file readers, and the batch of each step.

Add here readers of further formats and further ways to draw batches. This folder imports only ``storage`` and
``common``.
"""
