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
    "Derivative": "differentiation.derivative",
    "DerivativeWarning": "differentiation.summary",
    "Estimate": "differentiation.estimate",
    "EvaluationError": "common.errors",
    "Evaluator": "evaluation.evaluator",
    "GradientCheck": "differentiation.checks.gradient_check",
    "InputError": "common.errors",
    "Network": "networks.dense",
    "Noise": "differentiation.directions",
    "Program": "evaluation.programs.program",
    "ProgramError": "evaluation.programs.program",
    "ScalingResult": "scaling.result",
    "Status": "differentiation.judgment.status",
    "TrainResult": "training.result",
    "TrainingError": "common.errors",
    "TwoLayerNet": "networks.two_layer_net",
    "WorkFolders": "evaluation.programs.folders",
    "check_gradient": "differentiation.checks.check",
    "differentiate": "differentiation.differentiate",
    "directional": "differentiation.directions",
    "estimate": "differentiation.estimate",
    "estimate_noise": "differentiation.directions",
    "gradient": "differentiation.gradient",
    "gradient_of": "differentiation.gradient",
    "jacobian": "differentiation.gradient",
    "jacobian_of": "differentiation.gradient",
    "load": "networks.model",
    "load_data": "datasets.readers",
    "scale": "scaling.experiment",
    "steps": "training.train",
    "train": "training.train",
    "value_and_gradient": "differentiation.gradient",
}

__all__ = ["__version__", *sorted(_HOMES)]

if TYPE_CHECKING:
    from distnum.common.errors import EvaluationError as EvaluationError
    from distnum.common.errors import InputError as InputError
    from distnum.common.errors import TrainingError as TrainingError
    from distnum.datasets.dataset import Dataset as Dataset
    from distnum.datasets.readers import load_data as load_data
    from distnum.differentiation.checks.check import check_gradient as check_gradient
    from distnum.differentiation.checks.gradient_check import GradientCheck as GradientCheck
    from distnum.differentiation.derivative import Derivative as Derivative
    from distnum.differentiation.differentiate import differentiate as differentiate
    from distnum.differentiation.directions import Noise as Noise
    from distnum.differentiation.directions import directional as directional
    from distnum.differentiation.directions import estimate_noise as estimate_noise
    from distnum.differentiation.estimate import Estimate as Estimate
    from distnum.differentiation.estimate import estimate as estimate
    from distnum.differentiation.gradient import gradient as gradient
    from distnum.differentiation.gradient import gradient_of as gradient_of
    from distnum.differentiation.gradient import jacobian as jacobian
    from distnum.differentiation.gradient import jacobian_of as jacobian_of
    from distnum.differentiation.gradient import value_and_gradient as value_and_gradient
    from distnum.differentiation.judgment.status import Status as Status
    from distnum.differentiation.summary import DerivativeWarning as DerivativeWarning
    from distnum.evaluation.evaluator import Evaluator as Evaluator
    from distnum.evaluation.programs.folders import WorkFolders as WorkFolders
    from distnum.evaluation.programs.program import Program as Program
    from distnum.evaluation.programs.program import ProgramError as ProgramError
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
