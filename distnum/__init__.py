"""Gradients without backpropagation: numerical differentiation, distributed over Ray.

The command ``distnum train`` and the functions here do the same. ``import distnum`` loads
neither ray nor matplotlib; they come with the first use that needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Activation": "activations",
    "Config": "config",
    "Dataset": "data",
    "InputError": "errors",
    "Network": "networks",
    "ScalingResult": "experiments",
    "TrainResult": "training",
    "TrainingError": "errors",
    "TwoLayerNet": "two_layer_net",
    "check_gradient": "differentiate",
    "gradient": "differentiate",
    "load": "models",
    "load_data": "data",
    "scale": "experiments",
    "steps": "training",
    "train": "training",
}

__all__ = ["__version__", *sorted(_HOMES)]

if TYPE_CHECKING:
    from distnum.activations import Activation as Activation
    from distnum.config import Config as Config
    from distnum.data import Dataset as Dataset
    from distnum.data import load_data as load_data
    from distnum.differentiate import check_gradient as check_gradient
    from distnum.differentiate import gradient as gradient
    from distnum.errors import InputError as InputError
    from distnum.errors import TrainingError as TrainingError
    from distnum.experiments import ScalingResult as ScalingResult
    from distnum.experiments import scale as scale
    from distnum.models import load as load
    from distnum.networks import Network as Network
    from distnum.training import TrainResult as TrainResult
    from distnum.training import steps as steps
    from distnum.training import train as train
    from distnum.two_layer_net import TwoLayerNet as TwoLayerNet


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"distnum.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'distnum' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
