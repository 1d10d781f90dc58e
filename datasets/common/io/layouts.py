"""Which axis of an array holds the channels of an image: told by the user, or clear by itself."""

from __future__ import annotations

from typing import Literal, get_args

Layout = Literal['', 'channels_first', 'channels_last']
"""The option `layout`; empty where the array's shape decides."""

LAYOUTS: tuple[Layout, ...] = get_args(Layout)[1:]


def layout_of(shape: tuple[int, ...]) -> Layout:
    """Returns the layout of an image by its three axes; empty if it is not clear.

    An axis is clearly that of the channels if it is the first or the last, and no longer than a
    quarter of both others, or at most 4 and shorter than both others.

    Args:
        shape: The three axes.
    """
    first, middle, last = shape
    if _are_channels(first, min(middle, last)):
        return 'channels_first'
    return 'channels_last' if _are_channels(last, min(first, middle)) else ''


def _are_channels(axis: int, shortest: int) -> bool:
    return 4 * axis <= shortest or axis <= 4 and axis < shortest
