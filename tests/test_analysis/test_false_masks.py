"""The worst false masks, and how they are shown."""

import io

import numpy as np
from PIL import Image

from mmdet_dinov2.analysis.false_masks import draw_false_mask, worst_false_masks
from mmdet_dinov2.data.tiled_loading import DecodedImage
from mmdet_dinov2.evaluation.evaluated_boxes import EvaluatedBoxes, found_boxes, true_boxes
from mmdet_dinov2.instance_masks import encode_masks

SIZE = (60, 90)


def block(x, y, w, h):
    mask = np.zeros(SIZE, dtype=bool)
    mask[y : y + h, x : x + w] = True
    return mask


def evaluated():
    """Two images: a right mask, a thin one, one of a different class, on a crowd, on nothing."""
    true = [(0, (10, 10, 20, 20), 0, 0), (0, (50, 10, 20, 20), 1, 0), (1, (0, 0, 40, 40), 0, 1),
            (1, (50, 5, 30, 30), 0, 0)]  # fmt: skip
    found = [
        (0, (10, 10, 20, 20), 0, 0.9, (10, 10, 20, 20)),
        (0, (50, 10, 20, 20), 1, 0.8, (50, 10, 20, 5)),
        (0, (10, 10, 20, 20), 1, 0.7, (11, 10, 20, 20)),
        (1, (5, 5, 20, 20), 0, 0.95, (5, 5, 20, 20)),
        (1, (60, 40, 10, 10), 0, 0.6, (60, 40, 10, 10)),
        (1, (50, 5, 30, 30), 0, 0.99, (50, 5, 10, 10)),
    ]
    true_masks = encode_masks(block(*box) for _, box, _, _ in true)
    known = np.array([True, True, True, False])
    return EvaluatedBoxes(
        2,
        true_boxes(*zip(*true), masks=true_masks, known=known),
        found_boxes(*list(zip(*found))[:4], masks=encode_masks(block(*mask) for *_, mask in found)),
    )


def test_the_most_confident_ones_come_first():
    worst = worst_false_masks(evaluated(), 9)
    # Not the right one, nor those on a crowd and on an object whose mask is not known.
    assert [(false.image, false.detection) for false in worst] == [(0, 1), (0, 2), (1, 4)]
    assert [round(false.overlap, 3) for false in worst] == [0.25, 0, 0]
    assert [false.nearest for false in worst] == [1, -1, -1]
    assert len(worst_false_masks(evaluated(), 2)) == 2


def test_they_are_drawn_in_their_surroundings():
    boxes = evaluated()
    image = DecodedImage(np.zeros((*SIZE, 3), np.uint8))
    false = worst_false_masks(boxes, 1)[0]
    drawn = draw_false_mask(image, boxes, false, {0: 'cell', 1: 'leaf'})
    assert [what for what, _ in drawn] == ['ground truth', 'prediction']
    true, found = (np.asarray(Image.open(io.BytesIO(data))) for _, data in drawn)
    # 40 x 40 pixels around the box at (50, 10), so that 12 pixels of the picture are one.
    assert true.shape == found.shape == (480, 480, 3)
    row, column = 12 * 22, 12 * 20
    assert true[row, column].max() > 20 and found[row, column].max() < 10
