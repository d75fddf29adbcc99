"""Networks with an ODE inside, as Equinox modules."""

from .block import ODEBlock as ODEBlock
from .costs import (
    Divergence as Divergence,
    JacobianNorm as JacobianNorm,
    KineticEnergy as KineticEnergy,
)
from .field import ConvField as ConvField
from .odenet import ODENet as ODENet
from .paper import PaperNet as PaperNet, PaperResidualNet as PaperResidualNet
from .paper_fields import (
    PaperField as PaperField,
    ResidualField as ResidualField,
    TimeConvField as TimeConvField,
)
from .regularise import Regularisers as Regularisers
from .residual import ResidualNet as ResidualNet
from .torch import from_torch as from_torch, to_torch as to_torch
