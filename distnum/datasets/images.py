"""Examples from picture files and ``.npy`` arrays."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnum.common.errors import InputError
from distnum.datasets.dataset import as_inputs
from distnum.datasets.readers import UNREADABLE_ARRAY, why_unreadable

__all__ = ["read_images"]


# Formats that hold a picture and nothing else; Pillow starts programs or interpreters for some others.
_PICTURE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")


def read_images(
    path: Path, example_shape: tuple[int, ...], pixels: bool, dtype: DTypeLike, invert: bool = False
) -> tuple[NDArray[np.generic], list[str]]:
    """Read examples from a picture or a ``.npy`` array, in the form that a model's data set holds them.

    A picture is converted to shades of grey and scaled to the size of an example. An array holds one example, or one in
    each row.

    Args:
        path: A PNG file or another picture that Pillow reads, or a ``.npy`` file.
        example_shape: Shape of an example, for pictures ``(height, width)``.
        pixels: Whether the data set holds pixels, as bytes. Whole numbers in an array are then pixels too.
        dtype: The data type of a picture's examples if the data set holds no pixels.
        invert: Whether to turn a picture that is dark on light into one that is light on dark.

    Returns:
        The examples, shape ``(n, n_inputs)``, and remarks for the user.

    Raises:
        InputError: The file cannot be read, or does not fit the shape.
    """
    try:
        problem = "" if path.is_file() else "not a file" if path.exists() else "not found"
    except OSError as error:
        problem = f"unreadable ({error.strerror})"
    if problem:
        raise InputError(f"file is {str(path)!r}, which is {problem}.")
    remarks: list[str] = []
    is_array = path.suffix.lower() == ".npy"
    x: NDArray[np.generic]
    if is_array:
        x = _read_npy(path, example_shape, pixels)
    else:
        picture = _read_picture(path, example_shape, remarks)
        x = picture if pixels else (picture / 255).astype(dtype)
    if invert:
        x = 255 - x if x.dtype == np.uint8 else 1 - x.astype(np.float64)
    elif not is_array and _edge_brightness(x, example_shape) > 0.5:
        remarks.append("the picture is dark on light; digits are light on dark, so --invert may be needed")
    return x, remarks


def _read_npy(path: Path, example_shape: tuple[int, ...], pixels: bool) -> NDArray[np.generic]:
    n_inputs = math.prod(example_shape)
    try:
        x = np.load(path, allow_pickle=False)
    except UNREADABLE_ARRAY as error:
        raise InputError(f"{path} cannot be read as a plain array{why_unreadable(error)}.") from None
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "uif":
        raise InputError(f"{path} must hold one array of real numbers.")
    if not np.isfinite(x).all():
        raise InputError(f"{path} holds a number that is not finite; all must be finite.")
    if x.shape in (example_shape, (n_inputs,)):
        x = x[None]
    if x.ndim < 2 or x.size == 0 or math.prod(x.shape[1:]) != n_inputs:
        raise InputError(f"{path} has shape {x.shape}; it must be {example_shape} or (n, {n_inputs}).")
    if pixels and x.dtype.kind in "ui":
        if x.min() < 0 or x.max() > 255:
            wrong = x.min() if x.min() < 0 else x.max()
            raise InputError(f"{path} holds {wrong}; pixels must be whole numbers from 0 to 255.")
        x = x.astype(np.uint8)
    return x.reshape(len(x), -1)


def _read_picture(path: Path, example_shape: tuple[int, ...], remarks: list[str]) -> NDArray[np.uint8]:
    """Return a picture as one example of bytes, and append what was done to it to the remarks."""
    from PIL import Image, UnidentifiedImageError

    if len(example_shape) != 2:
        raise InputError(f"{path} is a picture, but this model takes examples of shape {example_shape}; use .npy.")
    height, width = example_shape
    try:
        with Image.open(path, formats=_PICTURE_FORMATS) as opened:
            picture: Any = _grey(opened)
            if picture.size != (width, height):
                remarks.append(f"scaled from {picture.size[0]}x{picture.size[1]} to {width}x{height}")
                picture = picture.resize((width, height), Image.Resampling.LANCZOS)
            return np.asarray(picture, dtype=np.uint8).reshape(1, -1)
    except UnidentifiedImageError:
        raise InputError(
            f"{path} cannot be read as a picture; it must be a {', '.join(_PICTURE_FORMATS)} file."
        ) from None
    except (*UNREADABLE_ARRAY, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as a picture{why_unreadable(error)}.") from None


def _grey(picture: Any) -> Any:
    """Convert a Pillow image to bytes of grey.

    16 bits are scaled to 8. Transparent parts become black or white, whichever contrasts with the opaque ones.
    """
    from PIL import Image

    if picture.mode.startswith("I;16") or picture.mode == "I":
        return Image.fromarray((np.asarray(picture).astype(np.float64) / 257).clip(0, 255).round().astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        with_alpha = picture.convert("RGBA")
        opacity = np.asarray(with_alpha.getchannel("A"), np.float64)
        brightness = float((np.asarray(with_alpha.convert("L")) * opacity).sum() / max(opacity.sum(), 1))
        background = Image.new("RGBA", with_alpha.size, "black" if brightness > 127 else "white")
        return Image.alpha_composite(background, with_alpha).convert("L")
    return picture.convert("L")


def _edge_brightness(x: NDArray[np.generic], shape: tuple[int, ...]) -> float:
    """Return the median brightness of a picture's edge, from 0 to 1."""
    picture = as_inputs(x, np.float64)[0].reshape(shape)
    return float(np.median(np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])))
