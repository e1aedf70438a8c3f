"""Examples from picture files and ``.npy`` arrays."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distnum.common.errors import InputError
from distnum.datasets.dataset import as_inputs
from distnum.datasets.readers import UNREADABLE_ARRAY, check_memory, why_unreadable

__all__ = ["read_images"]


# Formats that hold a picture and nothing else; Pillow starts programs or interpreters for some others.
_PICTURE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")

# A small file can hold a huge picture of one color. Reading one of this size takes less than 1 GB, in every format.
_MOST_PIXELS, _MOST_FILE_BYTES = 50_000_000, 500_000_000

# Numbers of fields of a TIFF file.
_TILE_WIDTH, _TILE_LENGTH = 322, 323

# Pictures are converted to grey in pieces of about this many pixels.
_PIECE = 1 << 20


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
    n_inputs = prod(example_shape)
    try:
        check_memory(path.stat().st_size, path)
        with np.errstate(all="ignore"):  # NumPy multiplies the sizes in the header
            x = np.load(path, allow_pickle=False)
    except InputError:
        raise
    except UNREADABLE_ARRAY as error:
        raise InputError(f"{path} cannot be read as a plain array{why_unreadable(error)}.") from None
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "uif":
        raise InputError(f"{path} must hold one array of real numbers.")
    if not np.isfinite(x).all():
        raise InputError(f"{path} holds a number that is not finite; all must be finite.")
    if x.shape in (example_shape, (n_inputs,)):
        x = x[None]
    if x.ndim < 2 or x.size == 0 or prod(x.shape[1:]) != n_inputs:
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
        if (n_bytes := path.stat().st_size) > _MOST_FILE_BYTES:
            raise InputError(f"{path} has {n_bytes:,} bytes; a picture may have {_MOST_FILE_BYTES:,}.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own limit of pixels, and notes on metadata
            picture = _grey_picture(path)
        if picture.size != (width, height):
            remarks.append(f"scaled from {picture.size[0]}x{picture.size[1]} to {width}x{height}")
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        return np.asarray(picture, dtype=np.uint8).reshape(1, -1)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(
            f"{path} cannot be read as a picture; it must be a {', '.join(_PICTURE_FORMATS)} file."
        ) from None
    except (*UNREADABLE_ARRAY, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as a picture{why_unreadable(error)}.") from None


def _grey_picture(path: Path) -> Any:
    """Return a picture file's first picture as a Pillow image of bytes."""
    from PIL import Image

    with Image.open(path, formats=_PICTURE_FORMATS) as picture:
        width, height = picture.size
        # The decoder of TIFF fills whole tiles, which can be larger than the picture.
        tags = getattr(picture, "tag_v2", {})
        sides = [side for side in map(tags.get, (_TILE_WIDTH, _TILE_LENGTH)) if isinstance(side, int)]
        n_pixels = max(width * height, prod(sides))
        if n_pixels > _MOST_PIXELS:
            raise InputError(f"{path} has {n_pixels:,} pixels; a picture may have {_MOST_PIXELS:,}.")
        picture.load()
        return _grey(picture)


def _grey(picture: Any) -> Any:
    """Convert a Pillow image to bytes of grey.

    16 bits are scaled to 8. Transparent parts become black or white, whichever contrasts with the opaque ones.
    """
    from PIL import Image

    has_16_bits = picture.mode.startswith("I;16") or picture.mode == "I"
    background = "" if has_16_bits else _background(picture)
    grey = Image.new("L", picture.size)
    for box in _pieces(picture):
        piece = picture.crop(box)
        if has_16_bits:
            scaled = (np.asarray(piece).astype(np.float64) / 257).clip(0, 255).round()
            piece = Image.fromarray(scaled.astype(np.uint8))
        elif background:
            piece = piece.convert("RGBA")
            piece = Image.alpha_composite(Image.new("RGBA", piece.size, background), piece)
        grey.paste(piece.convert("L"), box)
    return grey


def _background(picture: Any) -> str:
    """Return the color to put behind a picture; an empty string if it has no transparency."""
    if picture.mode not in ("RGBA", "LA", "PA") and "transparency" not in picture.info:
        return ""
    brightness = opacity = 0
    for box in _pieces(picture):
        piece = picture.crop(box).convert("RGBA")
        alpha = np.asarray(piece.getchannel("A"), np.int64)
        brightness += int((np.asarray(piece.convert("L")) * alpha).sum())
        opacity += int(alpha.sum())
    return "black" if brightness > 127 * max(opacity, 1) else "white"


def _pieces(picture: Any) -> Iterator[tuple[int, int, int, int]]:
    """Yield boxes that cover a picture, as its conversion takes many times the memory of the picture."""
    width, height = picture.size
    n_rows = max(1, _PIECE // max(width, 1))
    for top in range(0, height, n_rows):
        yield 0, top, width, min(top + n_rows, height)


def _edge_brightness(x: NDArray[np.generic], shape: tuple[int, ...]) -> float:
    """Return the median brightness of a picture's edge, from 0 to 1."""
    picture = as_inputs(x, np.float64)[0].reshape(shape)
    return float(np.median(np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])))
