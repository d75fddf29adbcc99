"""The field, the stem and the head: fast forms for few channels, and plain twins."""

from .activation import activation_pair as activation_pair
from .conv_field import conv_field as conv_field
from .dispatch import (
    FEW_CHANNELS as FEW_CHANNELS,
    prefers_batch_last as prefers_batch_last,
)
from .norm_conv import (
    add_image as add_image,
    group_norm as group_norm,
    norm_conv as norm_conv,
)
from .plain import (
    conv_field_plain as conv_field_plain,
    conv_plain as conv_plain,
    group_norm_plain as group_norm_plain,
    pool_linear_plain as pool_linear_plain,
    stem_plain as stem_plain,
)
from .stem import pool_linear as pool_linear, stem as stem
from .strided import strided_conv as strided_conv
