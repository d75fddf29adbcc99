"""The digits that stand in for MNIST."""

import importlib
import importlib.util
import itertools
from typing import Any

import numpy as np
import pytest
from served import Server

from jaxode.datasets import load


@pytest.fixture
def no_network(server: Server) -> None:
    server.behaviour = "busy"


@pytest.mark.usefixtures("no_network")
def test_auto_without_network_warns_and_returns_the_digits():
    with pytest.warns(UserWarning, match=r"^NOT MNIST: .*HTTP 503.*not comparable"):
        data = load()
    assert data.name == "digits"


@pytest.mark.usefixtures("no_network")
def test_auto_tells_the_callback_instead_of_warning():
    lines: list[str] = []
    assert load("auto", on_notice=lines.append).name == "digits"
    assert len(lines) == 1 and lines[0].startswith("NOT MNIST")


def test_digits_are_scikit_learns_enlarged():
    digits: Any = importlib.import_module("sklearn.datasets").load_digits()
    data = load("digits")
    assert data.train_images.shape == (1437, 28, 28, 1)
    assert data.test_images.shape == (360, 28, 28, 1)
    images = np.concatenate([split.images for split in data])[..., 0]
    assert images.dtype == np.uint8 and data.train_labels.dtype == np.int32
    # Any pixel of each 3x3 block gives the small image back; the frame is empty.
    for row, column in itertools.product((2, 3, 4), repeat=2):
        small = images[:, row:26:3, column:26:3].reshape(-1, 64) / (255 / 16)
        expected = {row.tobytes() for row in digits.data.astype(np.uint8)}
        assert {row.tobytes() for row in np.rint(small).astype(np.uint8)} == expected
    frame = np.ones((28, 28), bool)
    frame[2:26, 2:26] = False
    assert images.max() == 255 and not images[:, frame].any()


def test_digits_are_split_four_to_one_in_every_class():
    data = load("digits")
    train, test = (np.bincount(split.labels, minlength=10) for split in data)
    # Counts of the 1,797 as scikit-learn's description gives them.
    np.testing.assert_array_equal(
        train + test, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    )
    np.testing.assert_allclose(test / (train + test), 0.2, atol=0.005)
    tests = {image.tobytes() for image in data.test_images}
    assert not any(image.tobytes() in tests for image in data.train_images)
