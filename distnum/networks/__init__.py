"""Dense networks: activations, losses, forward passes, scores, model files, and their differentiation.

- ``dense``: the network and its flat parameters. ``activations`` (formulas in ``smooth``) and
  ``losses`` give values and exact changes; add a new activation or loss there.
- ``propagation/``: the numerical gradient of a network.
- ``metrics``: scores on a data set. ``model``: a trained network as a file.
- ``two_layer_net``: the network of the article, with the article's names.

Add a module for a new kind of network. May import ``differentiation``, ``workers``, ``datasets``,
``storage`` and ``common``.
"""
