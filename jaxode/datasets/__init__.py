"""MNIST and its relatives as NumPy arrays, through tensorflow-datasets."""

from .dataset import DataError as DataError, Dataset as Dataset, Split as Split
from .load import (
    DATASETS as DATASETS,
    load as load,
    load_records as load_records,
)
from .records import (
    ArrayRecords as ArrayRecords,
    Records as Records,
    RecordSet as RecordSet,
)
from .stream import stream as stream
