"""Examples from picture files and ``.npy`` arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distnum.common.errors import InputError
from distnum.datasets.dataset import as_inputs
from distnum.datasets.readers import UNREADABLE_ARRAY, why_unreadable
from distnum.networks.model import Model

__all__ = ["read_images"]


# Formats that are pictures and nothing more; others would start programs or interpreters.
_PICTURE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")


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
