"""Difference propagation: the numerical gradient of a dense network without forward passes for each parameter.

The modules, in the order in which a gradient uses them:

- ``objective``: the network's loss as work for a pool. Start reading here.
- ``forward``, ``base_point``: the forward pass that all changes start from.
- ``routes``: how each unit's change reaches the loss; ``kinks``, ``taylor``, ``loops`` and
  ``push`` prepare the routes.
- ``kernels``, ``passes``, ``compiled``: loops that Numba compiles.
- ``threads``: runs the loops on threads, in an order that keeps the bits.

Add a module here if it follows changes through a dense network. Formulas of activations and losses
belong in ``distnum.networks``. May import ``networks``, ``differentiation``, ``workers`` and ``common``.
Only ``objective``, ``forward``, ``base_point``, ``kinks`` and ``threads`` are imported before the
first gradient: the others import Numba, which takes half a second.
"""
