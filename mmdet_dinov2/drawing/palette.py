"""Colours of classes."""

from __future__ import annotations

import colorsys

_GOLDEN_RATIO = 0.618034


def class_colours(num_classes: int) -> list[tuple[int, int, int]]:
    """Returns RGB colours, 0 to 255; neighbouring classes differ clearly.

    The colour of a class does not depend on the number of classes.
    """
    hues = [(0.02 + index * _GOLDEN_RATIO) % 1 for index in range(num_classes)]
    colours = [colorsys.hsv_to_rgb(hue, 0.85, 0.95 - 0.2 * (i % 2)) for i, hue in enumerate(hues)]
    return [tuple(round(255 * channel) for channel in colour) for colour in colours]
