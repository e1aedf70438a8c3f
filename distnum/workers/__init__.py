"""Who computes: this process, or Ray actors.

A pool computes *work* (``work.py``): one answer for every index, cut into tiles. It does not know
what the answers mean. Here belong pools, what a worker does, how tiles are shared among workers,
and the protocol between driver and worker. Imports only ``common``.
"""
