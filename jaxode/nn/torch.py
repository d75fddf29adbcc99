"""PyTorch weights in and out, without importing PyTorch."""

import os
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .layers import CLASSES, IMAGE_SIZE
from .odenet import ODENet
from .residual import ResidualNet
from .torch_files import read_weights
from .torch_layouts import Layout, layout_of_model, layout_of_names


# The post's listing keeps the field in the network and, once more, in its block.
_DUPLICATE_PREFIX = "odeblock."


def from_torch(
    weights: Mapping[str, Any] | str | os.PathLike,
    *,
    num_blocks: int | None = None,
    **settings: Any,
) -> ODENet | ResidualNet:
    """A network with weights that PyTorch has trained.

        model = jaxode.nn.from_torch("mnist_odenet.pth", adjoint="backsolve")

    Which one it is, the names tell:

    - those of the first post's network: an `ODENet`;
    - of torchdiffeq's `examples/odenet_mnist.py`: a `PaperNet`, or, of its
      `--network resnet`, a `PaperResidualNet`;
    - of the first post's with residual blocks, `blocks.0.gn.weight`,
      `blocks.0.conv.weight` and so on in place of `odefunc`: a `ResidualNet`.

    Args:
        weights: A state dict, PyTorch tensors or NumPy arrays by name; or a file with
            one, `.safetensors`, `.pth` or `.pt`. Second copies of the field, named
            `odeblock.odefunc...`, are left out.
        num_blocks: Makes the residual twin, of so many blocks that share the field's
            weights: their number is not among the weights.
        **settings: Anything else that the network takes but `channels` and `key`.

    Returns:
        The network, in the precision of the weights (single precision, unless JAX's
        `jax_enable_x64` is set).

    Raises:
        ValueError: naming the arrays that are missing, unknown or of another shape;
            and for a file that holds no weights.
        OSError: for a file that cannot be read.
        ImportError: without the library that reads it.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> net = jaxode.nn.ODENet(6, key=jax.random.key(0))
        >>> again = jaxode.nn.from_torch(jaxode.nn.to_torch(net))
        >>> images = jnp.ones((2, 28, 28, 1))
        >>> bool(jnp.allclose(again(images), net(images)))
        True
    """
    if isinstance(weights, str | os.PathLike):
        weights = read_weights(weights)
    arrays = {
        name: _as_numpy(array)
        for name, array in weights.items()
        if not name.startswith(_DUPLICATE_PREFIX)
    }
    layout = layout_of_names(arrays, num_blocks)
    _check_names(arrays, layout)
    channels = arrays[layout.first_bias].size
    settings = layout.settings | settings
    make = lambda: layout.kind(channels, key=jax.random.key(0), **settings)
    model = eqx.filter_eval_shape(make)
    _check_shapes(arrays, layout, model)
    dtype = jax.dtypes.canonicalize_dtype(np.result_type(*arrays.values()))
    rows: dict[str, list[np.ndarray]] = {}
    for name, place in layout.places.items():
        rows.setdefault(place.path, []).append(arrays[name])
    is_stacked = {place.path: place.row is not None for place in layout.places.values()}
    values = [
        jnp.asarray(np.stack(found) if is_stacked[path] else found[0], dtype)
        for path, found in rows.items()
    ]
    return eqx.tree_at(
        lambda net: [attrgetter(path)(net) for path in rows], model, values
    )


def to_torch(model: ODENet | ResidualNet) -> dict[str, np.ndarray]:
    """The weights of a network under the names that `from_torch` reads.

        net.load_state_dict({k: torch.tensor(v) for k, v in to_torch(model).items()})

    Args:
        model: A network of `jaxode.nn`.

    Returns:
        Name to array; copies, in the precision of the model.

    Raises:
        TypeError: where its field has no counterpart in PyTorch.

    Examples:
        >>> import jax
        >>> import jaxode
        >>> weights = jaxode.nn.to_torch(jaxode.nn.ODENet(6, key=jax.random.key(0)))
        >>> sorted({name.split(".")[0] for name in weights})
        ['conv1', 'fc', 'gn', 'odefunc']
    """
    found = {}
    for name, place in layout_of_model(model).places.items():
        array = attrgetter(place.path)(model)
        found[name] = np.array(array if place.row is None else array[place.row])
    return found


def _as_numpy(array: Any) -> np.ndarray:
    """A tensor on any device, tracked by autograd or not, or anything NumPy takes."""
    if hasattr(array, "detach"):
        array = array.detach().cpu().numpy()
    return np.asarray(array)


def _check_names(arrays: dict[str, np.ndarray], layout: Layout) -> None:
    missing = [name for name in layout.places if name not in arrays]
    unknown = [name for name in arrays if name not in layout.places]
    problems = []
    if missing:
        problems.append(f"lacks {', '.join(missing)}")
    if unknown:
        problems.append(f"has {', '.join(unknown)}, which the network does not")
    if problems:
        raise ValueError(
            f"The state dict {' and '.join(problems)}; pass the state_dict() of "
            f"{layout.title}, which holds {', '.join(layout.places)}."
        )


def _check_shapes(arrays: dict[str, np.ndarray], layout: Layout, model: Any) -> None:
    wrong = []
    for name, (path, row) in layout.places.items():
        shape = attrgetter(path)(model).shape
        shape = shape if row is None else shape[1:]
        if arrays[name].shape != shape:
            wrong.append(f"{name} has shape {arrays[name].shape} and needs {shape}")
    if wrong:
        raise ValueError(
            f"The state dict does not fit a network of "
            f"{arrays[layout.first_bias].size} channels (the size of "
            f"{layout.first_bias}) for {IMAGE_SIZE}x{IMAGE_SIZE} images and {CLASSES} "
            f"classes: {'; '.join(wrong)}."
        )
