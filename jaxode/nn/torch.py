"""PyTorch weights in and out, without importing PyTorch."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .field import ConvField
from .layers import CLASSES, IMAGE_SIZE
from .odenet import ODENet


def _field(net: ODENet) -> ConvField:
    field = net.block.field
    if not isinstance(field, ConvField):
        raise TypeError(
            f"The network's field is a {type(field).__name__}; only a ConvField has a "
            "counterpart in PyTorch. Read the arrays of other fields one by one."
        )
    return field


# PyTorch's name of each array, and where it is in an `ODENet`.
_PLACES: dict[str, Callable[[ODENet], Any]] = {
    "conv1.weight": lambda net: net.stem.conv.weight,
    "conv1.bias": lambda net: net.stem.conv.bias,
    "gn.weight": lambda net: net.stem.norm.weight,
    "gn.bias": lambda net: net.stem.norm.bias,
    "odefunc.gn.weight": lambda net: _field(net).norm.weight,
    "odefunc.gn.bias": lambda net: _field(net).norm.bias,
    "odefunc.conv.weight": lambda net: _field(net).conv.weight,
    "odefunc.conv.bias": lambda net: _field(net).conv.bias,
    "fc.weight": lambda net: net.head.weight,
    "fc.bias": lambda net: net.head.bias,
}
# The post's listing keeps the field in the network and, once more, in its block.
_DUPLICATE_PREFIX = "odeblock."


def from_torch(state_dict: Mapping[str, Any], **settings: Any) -> ODENet:
    """An `ODENet` with the weights of the first post's PyTorch network.

        weights = torch.load("mnist_odenet.pth")
        model = jaxode.nn.from_torch(weights, adjoint="backsolve")

    Args:
        state_dict: PyTorch tensors or NumPy arrays under the names of the post's
            network; the number of channels is taken from them. Its second copies of
            the field, named `odeblock.odefunc...`, are left out.
        **settings: Anything that `ODENet` takes but `channels` and `key`.

    Returns:
        The network, in the precision of the weights (single precision, unless JAX's
        `jax_enable_x64` is set).

    Raises:
        ValueError: naming the arrays that are missing, unknown or of another shape.
    """
    arrays = {
        name: _as_numpy(array)
        for name, array in state_dict.items()
        if not name.startswith(_DUPLICATE_PREFIX)
    }
    _check_names(arrays)
    channels = arrays["conv1.bias"].size
    model = eqx.filter_eval_shape(ODENet, channels, key=jax.random.key(0), **settings)
    _check_shapes(arrays, {name: at(model).shape for name, at in _PLACES.items()})
    dtype = jax.dtypes.canonicalize_dtype(np.result_type(*arrays.values()))
    return eqx.tree_at(
        lambda net: [at(net) for at in _PLACES.values()],
        model,
        [jnp.asarray(arrays[name], dtype) for name in _PLACES],
    )


def to_torch(model: ODENet) -> dict[str, np.ndarray]:
    """The weights of an `ODENet` under the names of the first post's network.

        net.load_state_dict({k: torch.tensor(v) for k, v in to_torch(model).items()})

    Args:
        model: A network whose field is a `ConvField`.

    Returns:
        Name to array; copies, in the precision of the model.

    Raises:
        TypeError: where the field is another one.
    """
    return {name: np.array(at(model)) for name, at in _PLACES.items()}


def _as_numpy(array: Any) -> np.ndarray:
    """A tensor on any device, tracked by autograd or not, or anything NumPy takes."""
    if hasattr(array, "detach"):
        array = array.detach().cpu().numpy()
    return np.asarray(array)


def _check_names(arrays: dict[str, np.ndarray]) -> None:
    missing = [name for name in _PLACES if name not in arrays]
    unknown = [name for name in arrays if name not in _PLACES]
    problems = []
    if missing:
        problems.append(f"lacks {', '.join(missing)}")
    if unknown:
        problems.append(f"has {', '.join(unknown)}, which the network does not")
    if problems:
        raise ValueError(
            f"The state dict {' and '.join(problems)}; pass the state_dict() of the "
            f"first post's network, which holds {', '.join(_PLACES)}."
        )


def _check_shapes(
    arrays: dict[str, np.ndarray], expected: dict[str, tuple[int, ...]]
) -> None:
    wrong = [
        f"{name} has shape {arrays[name].shape} and needs {shape}"
        for name, shape in expected.items()
        if arrays[name].shape != shape
    ]
    if wrong:
        raise ValueError(
            f"The state dict does not fit a network of {arrays['conv1.bias'].size} "
            f"channels (the size of conv1.bias) for {IMAGE_SIZE}x{IMAGE_SIZE} images "
            f"and {CLASSES} classes: {'; '.join(wrong)}."
        )
