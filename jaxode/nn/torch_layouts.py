"""Which array of a network is under which name in PyTorch's state dict."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from .field import ConvField
from .odenet import ODENet
from .paper import PaperNet, PaperResidualNet
from .paper_fields import PaperField, ResidualField, TimeConvField
from .residual import ResidualNet


class Place(NamedTuple):
    """Where an array is in a network.

    Attributes:
        path: Names of attributes, with dots between.
        row: Which residual block's it is, of blocks with weights of their own.
    """

    path: str
    row: int | None = None


class Layout(NamedTuple):
    """A kind of network, and PyTorch's names for its arrays.

    Attributes:
        title: What the PyTorch network is called in messages.
        kind: Class of the network.
        settings: Arguments that the names imply.
        first_bias: The name of the array whose size is the number of channels.
        places: Name to place.
    """

    title: str
    kind: type[ODENet] | type[ResidualNet]
    settings: dict[str, Any]
    first_bias: str
    places: dict[str, Place]


_POST_ENDS = {"conv1": "stem.conv", "gn": "stem.norm", "fc": "head"}
_POST_FIELD = ("gn", "norm"), ("conv", "conv")
_PAPER_STEM = {
    "0": "stem.conv1",
    "1": "stem.norm1",
    "3": "stem.conv2",
    "4": "stem.norm2",
    "6": "stem.conv3",
}
_PAPER_FIELD = {
    "norm1": "norm1",
    "conv1._layer": "conv1",
    "norm2": "norm2",
    "conv2._layer": "conv2",
    "norm3": "norm3",
}
# In torchdiffeq's example, a list of layers, the block's number and that of the head's
# linear layer behind its normalisation, with three layers without weights between.
_PAPER_BLOCK = 7
_PAPER_LINEAR = 4


def layout_of_names(names: Iterable[str], num_blocks: int | None) -> Layout:
    """The layout that a state dict looks like.

    Args:
        names: Its names.
        num_blocks: The number of residual blocks with weights in common, or `None`.
    """
    names = list(names)
    is_paper = any(re.match(r"\d+\.", name) for name in names)
    has_field = any("odefunc." in name for name in names)
    if num_blocks is None and has_field:
        return _paper() if is_paper else _post()
    if num_blocks is not None:
        own = None
    elif is_paper:
        inside = {m[1] for name in names if (m := re.match(r"(\d+)\.\w+\.", name))}
        own = len(inside)
    else:
        own = len({m[1] for n in names if (m := re.match(r"blocks\.(\d+)\.", n))})
    layout = _paper_residual if is_paper else _post_residual
    return layout(own, num_blocks)


def layout_of_model(model: Any) -> Layout:
    """The layout of a network.

    Raises:
        TypeError: where its field has no counterpart in PyTorch.
    """
    is_residual = isinstance(model, ResidualNet)
    field = model.field if is_residual else model.block.field
    known = (ConvField, TimeConvField, PaperField, ResidualField)
    if field is not None and not isinstance(field, known):
        raise TypeError(
            f"The network's field is a {type(field).__name__}; only a ConvField and "
            "the fields of jaxode.nn's own networks have a counterpart in PyTorch. "
            "Read the arrays of other fields one by one."
        )
    if not is_residual:
        return _paper() if isinstance(model, PaperNet) else _post()
    is_paper = isinstance(model, PaperResidualNet)
    layout = _paper_residual if is_paper else _post_residual
    if model.tied and model.num_blocks:
        return layout(None, model.num_blocks)
    return layout(model.num_blocks, None)


def _post() -> Layout:
    field = {f"odefunc.{name}": f"block.field.{at}" for name, at in _POST_FIELD}
    places = dict(_pairs(_POST_ENDS | field))
    return Layout("the first post's network", ODENet, {}, "conv1.bias", places)


def _post_residual(own: int | None, tied: int | None) -> Layout:
    places = dict(_pairs(_POST_ENDS))
    if own is None:
        field = {f"odefunc.{name}": f"field.{at}" for name, at in _POST_FIELD}
        places |= _pairs(field)
    for row in range(own or 0):
        block = {f"blocks.{row}.{name}": f"field.{at}" for name, at in _POST_FIELD}
        places |= _pairs(block, row)
    title = "the first post's network with residual blocks"
    return Layout(title, ResidualNet, _counts(own, tied), "conv1.bias", places)


def _paper() -> Layout:
    field = {
        f"{_PAPER_BLOCK}.odefunc.{name}": f"block.field.{at}"
        for name, at in _PAPER_FIELD.items()
    }
    places = dict(_pairs(_PAPER_STEM | field | _paper_head(1)))
    title = "torchdiffeq's examples/odenet_mnist.py"
    return Layout(title, PaperNet, {}, "0.bias", places)


def _paper_residual(own: int | None, tied: int | None) -> Layout:
    places = dict(_pairs(_PAPER_STEM))
    stored = 1 if own is None else own
    for row in range(stored):
        for layer in ("norm1", "conv1", "norm2", "conv2"):
            names = {f"{_PAPER_BLOCK + row}.{layer}": f"field.{layer}"}
            parts = ("weight",) if "conv" in layer else ("weight", "bias")
            places |= _pairs(names, None if own is None else row, parts)
    places |= _pairs(_paper_head(stored))
    title = "torchdiffeq's examples/odenet_mnist.py with --network resnet"
    return Layout(title, PaperResidualNet, _counts(own, tied), "0.bias", places)


def _paper_head(blocks: int) -> dict[str, str]:
    norm = _PAPER_BLOCK + blocks
    return {f"{norm}": "head.norm", f"{norm + _PAPER_LINEAR}": "head"}


def _counts(own: int | None, tied: int | None) -> dict[str, Any]:
    count = tied if own is None else own
    return dict(num_blocks=count, tied=own is None)


def _pairs(
    modules: dict[str, str],
    row: int | None = None,
    parts: tuple[str, ...] = ("weight", "bias"),
) -> Iterator[tuple[str, Place]]:
    """The arrays of modules, under both names."""
    for name, path in modules.items():
        for part in parts:
            yield f"{name}.{part}", Place(f"{path}.{part}", row)
