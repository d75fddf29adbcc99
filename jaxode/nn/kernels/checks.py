"""Errors that all forms share."""


def check_groups(channels: int, groups: int) -> None:
    """Raises unless `groups` divides `channels`.

    Raises:
        ValueError: if it does not.
    """
    if groups < 1 or channels % groups:
        raise ValueError(
            f"{channels} channels cannot be normalised in {groups} groups of equal "
            f"size; pass groups that divide the channels, such as groups={channels}."
        )
