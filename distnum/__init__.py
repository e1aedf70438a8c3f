"""Gradients without backpropagation: numerical differentiation, distributed over Ray.

The command ``distnum train`` and the functions here do the same. ``import distnum`` loads
neither ray nor matplotlib; they come with the first use that needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from distnum.common.version import __version__

_HOMES = {
    "Activation": "networks.activations",
    "Config": "training.config",
    "Dataset": "datasets.dataset",
    "InputError": "common.errors",
    "Network": "networks.dense",
    "ScalingResult": "scaling.result",
    "TrainResult": "training.result",
    "TrainingError": "common.errors",
    "TwoLayerNet": "networks.two_layer_net",
    "check_gradient": "differentiation.gradient",
    "gradient": "differentiation.gradient",
    "load": "networks.model",
    "load_data": "datasets.readers",
    "scale": "scaling.experiment",
    "steps": "training.train",
    "train": "training.train",
}

__all__ = ["__version__", *sorted(_HOMES)]

if TYPE_CHECKING:
    from distnum.common.errors import InputError as InputError
    from distnum.common.errors import TrainingError as TrainingError
    from distnum.datasets.dataset import Dataset as Dataset
    from distnum.datasets.readers import load_data as load_data
    from distnum.differentiation.gradient import check_gradient as check_gradient
    from distnum.differentiation.gradient import gradient as gradient
    from distnum.networks.activations import Activation as Activation
    from distnum.networks.dense import Network as Network
    from distnum.networks.model import load as load
    from distnum.networks.two_layer_net import TwoLayerNet as TwoLayerNet
    from distnum.scaling.experiment import scale as scale
    from distnum.scaling.result import ScalingResult as ScalingResult
    from distnum.training.config import Config as Config
    from distnum.training.result import TrainResult as TrainResult
    from distnum.training.train import steps as steps
    from distnum.training.train import train as train


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"distnum.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'distnum' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
