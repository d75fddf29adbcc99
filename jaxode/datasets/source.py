"""What the original files are: names, sizes, checksums, and how to read them."""

import gzip
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .dataset import DataError, Dataset, Split


class File(NamedTuple):
    """One gzipped IDX file as it was published, and what is in it.

    Attributes:
        name: Its name, ends in `.gz`.
        size: Bytes.
        sha256: Of the file.
        content_sha256: Of the IDX file inside, where that is known: by it the file is
            recognised in another packing too.
    """

    name: str
    size: int
    sha256: str
    content_sha256: str | None = None


@dataclass(frozen=True)
class Source:
    """A data set in MNIST's format, and where it is published.

    The three known ones share their file names, so only the checksums tell them apart.

    Attributes:
        name: The name that tensorflow-datasets knows it by.
        title: The name for people.
        url: Folder of the four files, ends in a slash.
        subfolder: The folder that torchvision makes for it.
        files: Training images, training labels, test images, test labels.
        counts: Numbers of training and of test images.
    """

    name: str
    title: str
    url: str
    subfolder: str
    files: tuple[File, File, File, File]
    counts: tuple[int, int] = (60_000, 10_000)


def _source(
    name: str,
    title: str,
    url: str,
    subfolder: str,
    *files: tuple[int, str, str | None],
) -> Source:
    names = (
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    )
    first, second, third, fourth = (
        File(name, *file) for name, file in zip(names, files, strict=True)
    )
    return Source(name, title, url, subfolder, (first, second, third, fourth))


# A copy of tensorflow-datasets' own table (a test compares them), because importing
# that package takes longer than a start from the cache may take. The sums of contents
# are of what these files hold; nobody publishes those of MNIST's relatives.
SOURCES = {
    source.name: source
    for source in (
        _source(
            "mnist",
            "MNIST",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "MNIST",
            (
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            ),
            (
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            ),
            (
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            ),
            (
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        ),
        _source(
            "fashion_mnist",
            "Fashion-MNIST",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "FashionMNIST",
            (
                26_421_880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                None,
            ),
            (
                29_515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                None,
            ),
            (
                4_422_102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                None,
            ),
            (
                5_148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                None,
            ),
        ),
        _source(
            "kmnist",
            "Kuzushiji-MNIST",
            "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
            "KMNIST",
            (
                18_165_135,
                "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
                None,
            ),
            (
                29_497,
                "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
                None,
            ),
            (
                3_041_136,
                "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
                None,
            ),
            (
                5_120,
                "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
                None,
            ),
        ),
    )
}


def find_problem(folder: Path, file: File) -> str | None:
    """Says what is wrong with one file in a folder, None if it is the original."""
    try:
        content = (folder / file.name).read_bytes()
    except FileNotFoundError:
        return f"{file.name} is missing ({file.size:,} bytes expected)"
    except OSError as error:
        return f"{file.name} cannot be read ({error.strerror})"
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 == file.sha256:
        return None
    for source in SOURCES.values():
        for known in source.files:
            if sha256 == known.sha256:
                return f"{file.name} is {known.name} of {source.name}"
    if len(content) != file.size:
        return f"{file.name} has {len(content):,} bytes, {file.size:,} expected"
    return f"{file.name} is damaged (sha256 {file.sha256} expected, {sha256} found)"


def read_packed(path: Path) -> bytes:
    """The bytes of a file, unpacked if it is gzipped."""
    content = path.read_bytes()
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


def read_idx(path: Path) -> np.ndarray:
    """Reads an IDX file of unsigned bytes, gzipped or not; the header gives the shape.

    Raises:
        DataError: if the header or the length is wrong.
    """
    content = read_packed(path)
    rank = content[3] if content[:3] == b"\x00\x00\x08" else 0
    start = 4 + 4 * rank
    shape = tuple(np.frombuffer(content[4:start], dtype=">u4").tolist())
    if rank == 0 or len(content) != start + np.prod(shape):
        raise DataError(f"{path} is no IDX file of bytes.")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def map_idx(path: Path) -> np.ndarray:
    """`read_idx`, of which an unpacked file stays on the disk until it is looked at."""
    whole = np.memmap(path, np.uint8, mode="r")
    if whole[:3].tobytes() != b"\x00\x00\x08":
        return read_idx(path)
    start = 4 + 4 * int(whole[3])
    shape = tuple(whole[4:start].view(">u4").tolist())
    if len(whole) != start + np.prod(shape):
        raise DataError(f"{path} is no IDX file of bytes.")
    return whole[start:].reshape(shape)


def read_files(
    paths: Iterable[Path],
    source: Source,
    read: Callable[[Path], np.ndarray] = read_idx,
) -> Dataset:
    """Reads the four files with NumPy alone.

    In half a second, where tensorflow-datasets takes ten to prepare them; and wherever
    array_record, which that needs, cannot be had.
    """
    arrays = [read(path) for path in paths]
    train, test = (
        Split(images[..., None], labels.astype(np.int32))
        for images, labels in (arrays[:2], arrays[2:])
    )
    return Dataset(source.name, train, test)
