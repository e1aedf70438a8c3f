"""A trained network as a file, and images as its input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.activations import Activation
from distnum.checkpoints import params_sha256
from distnum.data import UNREADABLE_ARRAY, Dataset, as_inputs, why_unreadable
from distnum.errors import InputError
from distnum.metrics import Evaluation, evaluate
from distnum.networks import Network
from distnum.runs import RunFolder

__all__ = ["Model", "load", "load_model", "read_images"]

# Formats that are pictures and nothing more; others would start programs or interpreters.
_PICTURE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")


@dataclass(frozen=True)
class Model:
    """A network with its parameters, and how its examples looked.

    Attributes:
        network, params: the network and its flat parameters.
        example_shape: of one example as it came: ``(28, 28)``.
        pixels: whether examples were bytes, scaled to 0 ... 1.
        data: the name of the data set it was trained on.
    """

    network: Network
    params: NDArray[np.floating]
    example_shape: tuple[int, ...]
    pixels: bool
    data: str

    def predict(self, x: NDArray[np.generic]) -> NDArray[np.intp]:
        """The most probable label of each example, shape ``(n,)``; ``x`` as the data set holds them."""
        return self.probabilities(x).argmax(axis=1)

    def probabilities(self, x: NDArray[np.generic]) -> NDArray[np.floating]:
        """Softmax of the outputs, shape ``(n, n_outputs)``."""
        with np.errstate(over="ignore", invalid="ignore"):
            outputs = self.network.outputs(self.params, as_inputs(x, self.params.dtype))
        if not np.isfinite(outputs).all():
            raise InputError("an example holds numbers so large that the network's outputs are not finite.")
        e = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))

    def evaluate(self, dataset: Dataset) -> Evaluation:
        """The network on the test examples of a data set.

        Raises:
            InputError: the data set does not fit the network.
        """
        if dataset.n_inputs != self.network.n_inputs:
            raise InputError(
                f"data {dataset.name} has {dataset.n_inputs} inputs an example; "
                f"the model takes {self.network.n_inputs}."
            )
        if not dataset.has_labels and self.network.loss_function.name == "cross_entropy":
            raise InputError(f"data {dataset.name} has real targets; this model's cross_entropy needs labels.")
        if dataset.has_labels and int(dataset.y_test.max()) >= self.network.n_outputs:
            raise InputError(
                f"data {dataset.name} has the label {int(dataset.y_test.max())}; this model knows labels below "
                f"{self.network.n_outputs}."
            )
        if not dataset.has_labels and dataset.n_outputs != self.network.n_outputs:
            raise InputError(
                f"data {dataset.name} has {dataset.n_outputs} targets an example; this model gives "
                f"{self.network.n_outputs}."
            )
        return evaluate(self.network, self.params, dataset.x_test, dataset.y_test)


def load(folder: str | Path, *, activation: Activation | None = None) -> Model:
    """The trained network in the folder of a run, to predict and to evaluate with.

    Args:
        folder: that ``distnum train`` or ``train(out=...)`` has made.
        activation: the one that the network was trained with, if it was a function of your own.

    Raises:
        InputError: there is no such run, it has no network yet, or its file is damaged.
    """
    return load_model(RunFolder.look(folder), activation)


def load_model(run: RunFolder, activation: Activation | None = None) -> Model:
    """The trained network of a run, with its activation or the one given.

    Raises:
        InputError: the run has none yet, or its file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = run.model_file
    if not path.is_file():
        raise InputError(f"run {run.name!r} has no trained model yet; finish it with: distnum resume {run.name}")
    try:
        with safe_open(path, framework="numpy") as file:
            about: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if about.get("format") != "distnum-model-1":
            raise InputError(f"{path} is not a network of distnum; a run of a Python function has no model to apply.")
        network = Network(
            [int(size) for size in about["sizes"].split(",")],
            activation=activation if activation is not None else about["activation"],
            loss=about["loss"],
        )
        if network.activation.name != about["activation"]:
            raise InputError(
                f"activation is {network.activation.name}, but {path} was trained with {about['activation']}; "
                "it must be the same."
            )
        params = network.pack(tensors)
        if params_sha256(params) != about["params_sha256"]:
            raise InputError(f"{path} is damaged: its parameters do not have the checksum that it names.")
        example_shape = tuple(int(n) for n in about["example_shape"].split(","))
        if min(example_shape) < 1 or int(np.prod(example_shape)) != network.n_inputs:
            raise InputError(f"{path} is damaged: examples of shape {example_shape} do not fit network {network}.")
        if about["pixels"] not in ("true", "false"):
            raise InputError(f"{path} is damaged: pixels is {about['pixels']!r}; it must be 'true' or 'false'.")
        return Model(network, params, example_shape, about["pixels"] == "true", about["data"])
    except InputError:
        raise
    except KeyError as error:
        raise InputError(f"{path} is damaged: its header names no {error}.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def read_images(path: Path, model: Model, invert: bool = False) -> tuple[NDArray[np.generic], list[str]]:
    """Examples from an image file or a ``.npy`` array, as the model's data set would hold them.

    An image is taken as shades of grey and scaled to the model's size. An array has one
    example or a row for each; bytes are pixels, and so are other whole numbers where the
    model was trained on pixels.

    Args:
        path: PNG or any other image that Pillow reads, or ``.npy``.
        model: what the examples are for.
        invert: turn dark on light into light on dark.

    Returns:
        the examples, one a row, and remarks for the user.

    Raises:
        InputError: the file cannot be read, or does not fit.
    """
    try:
        problem = "" if path.is_file() else "not a file" if path.exists() else "not found"
    except OSError as error:
        problem = f"unreadable ({error.strerror})"
    if problem:
        raise InputError(f"file is {str(path)!r}, which is {problem}.")
    remarks: list[str] = []
    x = _read_npy(path, model) if path.suffix.lower() == ".npy" else _read_picture(path, model, remarks)
    if invert:
        x = 255 - x if x.dtype == np.uint8 else 1 - x.astype(np.float64)
    elif path.suffix.lower() != ".npy" and _edge_brightness(x, model.example_shape) > 0.5:
        remarks.append("the picture is dark on light; digits are light on dark, so --invert may be needed")
    return x, remarks


def _read_npy(path: Path, model: Model) -> NDArray[np.generic]:
    try:
        x = np.load(path, allow_pickle=False)
    except UNREADABLE_ARRAY as error:
        raise InputError(f"{path} cannot be read as a plain array{why_unreadable(error)}.") from None
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "uif":
        raise InputError(f"{path} must hold one array of real numbers.")
    if not np.isfinite(x).all():
        raise InputError(f"{path} holds a number that is not finite; all must be finite.")
    if x.shape in (model.example_shape, (model.network.n_inputs,)):
        x = x[None]
    if x.ndim < 2 or x.size == 0 or int(np.prod(x.shape[1:])) != model.network.n_inputs:
        raise InputError(
            f"{path} has shape {x.shape}; it must be {model.example_shape} or (n, {model.network.n_inputs})."
        )
    if model.pixels and x.dtype.kind in "ui":
        if x.min() < 0 or x.max() > 255:
            wrong = x.min() if x.min() < 0 else x.max()
            raise InputError(f"{path} holds {wrong}; pixels must be whole numbers from 0 to 255.")
        x = x.astype(np.uint8)
    return x.reshape(len(x), -1)


def _read_picture(path: Path, model: Model, remarks: list[str]) -> NDArray[np.generic]:
    from PIL import Image, UnidentifiedImageError

    if len(model.example_shape) != 2:
        raise InputError(
            f"{path} is a picture, but this model takes examples of shape {model.example_shape}; use .npy."
        )
    height, width = model.example_shape
    try:
        with Image.open(path, formats=_PICTURE_FORMATS) as opened:
            picture: Any = _grey(opened)
            if picture.size != (width, height):
                remarks.append(f"scaled from {picture.size[0]}x{picture.size[1]} to {width}x{height}")
                picture = picture.resize((width, height), Image.Resampling.LANCZOS)
            pixels = np.asarray(picture, dtype=np.uint8)
    except UnidentifiedImageError:
        raise InputError(
            f"{path} cannot be read as a picture; it must be a {', '.join(_PICTURE_FORMATS)} file."
        ) from None
    except (*UNREADABLE_ARRAY, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as a picture{why_unreadable(error)}.") from None
    x = pixels.reshape(1, -1)
    return x if model.pixels else (x / 255).astype(model.params.dtype)


def _grey(picture: Any) -> Any:
    """Any picture as bytes of grey; 16 bits are scaled, what is transparent becomes paper that shows the drawing."""
    from PIL import Image

    if picture.mode.startswith("I;16") or picture.mode == "I":
        return Image.fromarray((np.asarray(picture).astype(np.float64) / 257).clip(0, 255).round().astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        with_alpha = picture.convert("RGBA")
        opacity = np.asarray(with_alpha.getchannel("A"), np.float64)
        light = float((np.asarray(with_alpha.convert("L")) * opacity).sum() / max(opacity.sum(), 1))
        paper = Image.new("RGBA", with_alpha.size, "black" if light > 127 else "white")
        return Image.alpha_composite(paper, with_alpha).convert("L")
    return picture.convert("L")


def _edge_brightness(x: NDArray[np.generic], shape: tuple[int, ...]) -> float:
    """The median of a picture's edge, from 0 to 1."""
    picture = as_inputs(x, np.float64)[0].reshape(shape)
    return float(np.median(np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])))
