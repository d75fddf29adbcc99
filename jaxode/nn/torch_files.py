"""Files of PyTorch weights, read without running what they hold."""

import argparse
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._optional import require


SUFFIXES = (".safetensors", ".pth", ".pt")


def read_weights(path: str | os.PathLike) -> Mapping[str, Any]:
    """The arrays of a file, by name.

    Args:
        path: `.safetensors`, read by that library, or `.pth` or `.pt`, read by
            `torch.load(..., weights_only=True)`, which runs nothing.

    Raises:
        OSError: if the file cannot be read.
        ImportError: without the library; the message says what to install.
        ValueError: for another suffix, and for a file that holds no weights, or more
            than these.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"{path} ends in {path.suffix or 'nothing'}, and weights are read from "
            f"files that end in {', '.join(SUFFIXES)}; rename it, or pass the state "
            "dict itself."
        )
    path.stat()  # for the error of a file that is not there, whatever the library
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_torch(path)


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    reader = require("safetensors.numpy", "Reading .safetensors", "safetensors")
    try:
        return reader.load_file(path)
    except require("safetensors", extra="safetensors").SafetensorError as error:
        raise ValueError(f"{path} is no .safetensors file: {error}.") from error


def _read_torch(path: Path) -> Mapping[str, Any]:
    torch = require("torch", f"Reading {path.suffix}", "torch")
    try:
        # The settings that torchdiffeq's example saves beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{path} cannot be read as weights alone ({reason}); save them by "
            "torch.save(net.state_dict(), path)."
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path} holds a {type(content).__name__} and no state dict; save it by "
            "torch.save(net.state_dict(), path)."
        )
    return content
