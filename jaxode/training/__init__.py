"""Training a classifier: state, jitted steps, metrics, data order, checkpoints."""

from .._files import atomic_write as atomic_write
from .batches import (
    epoch_order as epoch_order,
    random_crop as random_crop,
    random_shift as random_shift,
)
from .checkpoint import (
    CheckpointError as CheckpointError,
    load_checkpoint as load_checkpoint,
    load_header as load_header,
    save_checkpoint as save_checkpoint,
)
from .evaluation import (
    evaluate as evaluate,
    evaluate_batches as evaluate_batches,
)
from .metrics import loss_and_metrics as loss_and_metrics, Metrics as Metrics
from .skip import (
    raise_if_stuck as raise_if_stuck,
    skip_failed as skip_failed,
    SkipState as SkipState,
    StuckError as StuckError,
)
from .steps import (
    MAX_SKIPPED_IN_A_ROW as MAX_SKIPPED_IN_A_ROW,
    train_step as train_step,
    train_steps as train_steps,
    TrainState as TrainState,
)
from .train_data import (
    batch_columns as batch_columns,
    TestBatches as TestBatches,
    TrainBatches as TrainBatches,
    TrainData as TrainData,
)
