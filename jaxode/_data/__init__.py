from ._dataset import DataError as DataError, Dataset as Dataset, Split as Split
from ._load import DATASETS as DATASETS, load_mnist as load_mnist
