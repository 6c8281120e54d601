"""Detection in tiles: the same as without where there is one, whatever the batch; merging."""

import time

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmdet_dinov2.data.tiled_loading import DecodedImage
from mmdet_dinov2.errors import InputError
from mmdet_dinov2.instance_masks import decode_mask, encode_masks
from mmdet_dinov2.large_image import attach
from mmdet_dinov2.layers.tiles import tile_boxes
from mmdet_dinov2.models import tiling as tiling_module
from mmdet_dinov2.models.tiling import Tiling, merge, predict_in_tiles

from ..reference import merged_tiles
from ..tiny import tiny_detector

IMAGES = [(70, 84), (100, 173)]


@pytest.fixture(scope='module')
def detector():
    return tiny_detector().eval()


def batch(sizes=IMAGES, seed=0):
    """Images of noise as the test pipeline makes them, at the size of their pixels."""
    rng = np.random.default_rng(seed)
    inputs, samples = [], []
    for height, width in sizes:
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        sample = DetDataSample(
            metainfo=dict(
                img_id=len(samples), img_shape=(height, width), ori_shape=(height, width),
                scale_factor=(1.0, 1.0),
            )
        )  # fmt: skip
        attach(sample, DecodedImage(pixels))
        inputs.append(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def predicted(detector, data, **tile):
    detector.tiling = Tiling.of(tile, 14) if tile else None
    try:
        with torch.no_grad():
            return [sample.pred_instances for sample in detector.test_step(data)]
    finally:
        detector.tiling = None


def assert_equal(one, other):
    assert len(one) == len(other) > 0
    assert torch.equal(one.labels, other.labels)
    torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=0)
    torch.testing.assert_close(one.bboxes, other.bboxes, atol=1e-3, rtol=0)


def test_an_image_that_fits_in_one_tile_is_predicted_as_without(detector):
    plain = predicted(detector, batch())
    for size in (173, 500):
        for one, other in zip(plain, predicted(detector, batch(), size=size), strict=True):
            assert torch.equal(one.bboxes, other.bboxes) and torch.equal(one.scores, other.scores)
    # Beside one that does not fit, too.
    assert_equal(plain[0], predicted(detector, batch(), size=90)[0])
    assert len(predicted(detector, batch(), size=90, whole=False)[0]) == len(plain[0])


def test_detections_do_not_depend_on_the_batch(detector):
    expected = predicted(detector, batch(), size=56, batch=1)
    for number in (3, 100):
        for one, other in zip(
            expected, predicted(detector, batch(), size=56, batch=number), strict=True
        ):
            assert_equal(one, other)
    (alone,) = predicted(detector, batch(IMAGES[:1]), size=56)
    assert_equal(alone, expected[0])


def test_tiles_are_what_the_image_has_there(detector):
    """Each tile is predicted as an image of its own, and its boxes are moved to its place."""
    data = batch(IMAGES[1:])
    tiles = tile_boxes(*IMAGES[1], 80, 0.25)
    pixels = data['inputs'][0]
    parts = []
    for x1, y1, x2, y2 in tiles:
        sample = DetDataSample(
            metainfo=dict(img_shape=(y2 - y1, x2 - x1), ori_shape=(y2 - y1, x2 - x1),
                          scale_factor=(1.0, 1.0))
        )  # fmt: skip
        (found,) = predicted(
            detector, dict(inputs=[pixels[:, y1:y2, x1:x2]], data_samples=[sample])
        )
        boxes = found.bboxes + torch.tensor([x1, y1, x1, y1])
        parts.append(InstanceData(bboxes=boxes, scores=found.scores, labels=found.labels))
    (whole,) = predicted(detector, data)
    expected = merge(parts, tiles, IMAGES[1], Tiling(80, 0.25), whole)
    (found,) = predicted(detector, data, size=80, overlap=0.25)
    assert_equal(found, expected)
    assert found.bboxes[:, 2].max() <= 173.001 and found.bboxes[:, 3].max() <= 100.001


def test_a_scale_enlarges_tiles_and_not_their_boxes(detector):
    (found,) = predicted(detector, batch(IMAGES[1:]), size=80, scale=1.5, whole=False)
    assert len(found) and found.bboxes[:, 2].max() <= 173.001
    seen = []

    def predict(data):
        seen.extend(tuple(pixels.shape) for pixels in data['inputs'])
        for sample in data['data_samples']:
            width, height = sample.ori_shape[1], sample.ori_shape[0]
            assert sample.scale_factor == pytest.approx((1.5, 1.5), rel=0.02)
            sample.pred_instances = InstanceData(
                bboxes=torch.tensor([[0.0, 0.0, width, height]]),
                scores=torch.ones(1), labels=torch.zeros(1, dtype=torch.long),
            )  # fmt: skip
        return data['data_samples']

    tiling = Tiling(80, 0.25, whole=False, scale=1.5)
    predict_in_tiles(predict, batch(IMAGES[1:]), tiling)
    sizes = {(3, round(1.5 * (y2 - y1)), round(1.5 * (x2 - x1)))
             for x1, y1, x2, y2 in tile_boxes(*IMAGES[1], 80, 0.25)}  # fmt: skip
    assert set(seen) == sizes


def test_images_without_their_pixels_are_refused(detector):
    data = batch()
    data['data_samples'] = [sample.new() for sample in data['data_samples']]
    for sample in data['data_samples']:
        sample.pop('large_image')
    with pytest.raises(InputError, match='images come without their tiles'):
        predicted(detector, data, size=56)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(size=13), 'a tile of 13 pixels is smaller than a patch of the backbone, 14 pixels'),
        (dict(size=20, scale=0.5), '20 pixels at a scale of 0.5 is smaller than a patch'),
        (dict(size=64, overlap=1), 'tile.overlap must be a number from 0 to 0.9, but is 1'),
        (dict(size=64, overlap=-0.1), 'tile.overlap must be a number from 0 to 0.9'),
        (dict(size=64, batch=0), 'tile.batch must be a whole number of at least 1, but is 0'),
        (dict(size=6.5), 'tile.size must be a whole number'),
        (dict(size=64, scale=0), 'tile.scale must be a number above 0'),
        (dict(size=64, scale=float('nan')), 'tile.scale must be a number above 0'),
        (dict(size=64, scale='2'), "tile.scale must be a number above 0 and up to 16, but is '2'"),
        (dict(size=64, overlap=None), 'tile.overlap must be a number from 0 to 0.9, but is None'),
        (dict(size=64, whole='no'), "tile.whole must be True or False, but is 'no'"),
        (dict(size=64, sise=3), r"tile has the unknown keys \['sise'\]; it takes size, overlap"),
        (dict(overlap=0.2), 'tile needs a size'),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(InputError, match=message):
        Tiling.of(settings, 14)


# --------------------------------------------------------------------------- merging

SHAPE, SIZE, OVERLAP = (90, 130), 50, 0.2


def instances(entries):
    boxes, scores, labels = zip(*entries, strict=True) if entries else ((), (), ())
    return InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(scores, dtype=torch.float32),
        labels=torch.tensor(labels, dtype=torch.long),
    )


def random_parts(seed, tiles):
    """Objects as the tiles see them: cut to the tile, a little off, some twice, some missed."""
    rng = np.random.default_rng(seed)
    objects = []
    for _ in range(60):
        width, height = rng.uniform(3, 30, 2)
        x, y = rng.uniform(0, SHAPE[1] - width), rng.uniform(0, SHAPE[0] - height)
        objects.append(([x, y, x + width, y + height], int(rng.integers(3))))
    parts = []
    for tile in tiles:
        part = []
        for box, label in objects:
            low = np.maximum(box[:2], tile[:2])
            high = np.minimum(box[2:], tile[2:])
            if (high - low < 2).any() or rng.uniform() < 0.1:
                continue
            seen = np.concatenate([low, high]) + rng.normal(0, 0.1, 4)
            part.append((seen.tolist(), float(rng.uniform(0.1, 1)), label))
        parts.append(part)
    whole = [([1.0, 2.0, 60.0, 70.0], 0.7, 0), ([1.0, 2.0, 9.0, 11.0], 0.9, 0)]
    return parts, whole


@pytest.mark.parametrize('seed', range(6))
def test_merging_box_by_box(seed):
    tiles = tile_boxes(*SHAPE, SIZE, OVERLAP)
    parts, whole = random_parts(seed, tiles)
    tiling = Tiling(SIZE, OVERLAP, max_per_img=40)
    for seen in ([], whole):
        found = merge([instances(part) for part in parts], tiles, SHAPE, tiling, instances(seen))
        expected = merged_tiles.merge(parts, tiles, SHAPE, SIZE, OVERLAP, seen, most=40)
        assert len(found) == len(expected) == 40
        torch.testing.assert_close(found.bboxes, instances(expected).bboxes)
        assert torch.equal(found.labels, instances(expected).labels)


def test_detections_that_cannot_be_kept_are_forgotten_early(monkeypatch):
    monkeypatch.setattr(tiling_module, '_CANDIDATES', 1)
    tiles = tile_boxes(*SHAPE, SIZE, OVERLAP)
    parts, _ = random_parts(0, tiles)
    tiling = Tiling(SIZE, OVERLAP, max_per_img=20)
    scores = sorted((score for part in parts for _, score, _ in part), reverse=True)
    assert len(scores) == 5 * 20
    best = [[row for row in part if row[1] >= scores[19]] for part in parts]
    found, expected = (
        merge((instances(part) for part in some), tiles, SHAPE, tiling) for some in (parts, best)
    )
    assert torch.equal(found.bboxes, expected.bboxes) and len(found)


def test_an_object_on_a_seam_is_found_once_and_as_a_whole():
    tiles = tile_boxes(50, 90, 50, 0.2)
    assert tiles == [(0, 0, 50, 50), (40, 0, 90, 50)]
    parts = [
        [([44.0, 10, 50, 20], 0.95, 1)],  # cut: the object ends at 54
        [([44.0, 10, 54, 20], 0.6, 1), ([60.0, 10, 70, 20], 0.5, 1)],
    ]
    found = merge([instances(p) for p in parts], tiles, (50, 90), Tiling(50, 0.2))
    assert found.bboxes.tolist() == [[44, 10, 54, 20], [60, 10, 70, 20]]
    # A different class, or a whole one that is hardly believed, does not explain it.
    for score, label in ((0.6, 2), (0.3, 1)):
        parts[1][0] = (parts[1][0][0], score, label)
        found = merge([instances(p) for p in parts], tiles, (50, 90), Tiling(50, 0.2))
        assert found.bboxes.tolist()[0] == [44, 10, 50, 20]
    # At the border of the image nothing is cut.
    found = merge([instances([([0.0, 0, 9, 9], 0.4, 1)]), instances([])], tiles, (50, 90),
                  Tiling(50, 0.2))  # fmt: skip
    assert len(found) == 1
    none = merge([instances([]), instances([])], tiles, (50, 90), Tiling(50, 0.2), instances([]))
    assert len(none) == 0


def test_a_mask_on_a_seam_is_one_and_lies_in_the_image():
    """Each tile sees the bright objects in it, as far as they lie in it."""
    pixels = np.zeros((50, 90, 3), np.uint8)
    objects = [(44, 10, 54, 20), (70, 30, 80, 45), (5, 5, 12, 9)]
    for x1, y1, x2, y2 in objects:
        pixels[y1:y2, x1:x2] = 200
        pixels[y1, x1] = 0  # the mask is not the box

    def predict(data):
        for image, sample in zip(data['inputs'], data['data_samples'], strict=True):
            number, labels, stats, _ = cv2.connectedComponentsWithStats(
                (image[0].numpy() > 100).astype(np.uint8)
            )
            boxes = torch.tensor(stats[1:, :4], dtype=torch.float32)
            boxes[:, 2:] += boxes[:, :2]
            sample.pred_instances = InstanceData(
                bboxes=boxes,
                scores=torch.full((number - 1,), 0.9),
                labels=torch.zeros(number - 1, dtype=torch.long),
                masks=encode_masks([labels == index for index in range(1, number)]),
            )
        return data['data_samples']

    data = batch([(50, 90)])
    data['inputs'] = [torch.from_numpy(pixels).permute(2, 0, 1).contiguous()]
    attach(data['data_samples'][0], DecodedImage(pixels))
    for whole in (True, False):
        (sample,) = predict_in_tiles(predict, data, Tiling(50, 0.2, whole=whole))
        found = sample.pred_instances
        assert sorted(map(tuple, found.bboxes.int().tolist())) == sorted(objects)
        assert 'corners' not in found
        for mask, (x1, y1, x2, y2) in zip(found.masks, found.bboxes.int().tolist(), strict=True):
            expected = np.zeros((50, 90), bool)
            expected[y1:y2, x1:x2] = pixels[y1:y2, x1:x2, 0] > 100
            assert (decode_mask(mask) == expected).all()
        attach(data['data_samples'][0], DecodedImage(pixels))


def test_ten_thousand_boxes_take_a_moment():
    tiles = tile_boxes(4000, 4000, 640, 0.2)
    generator = torch.Generator().manual_seed(0)
    parts = []
    for x1, y1, x2, y2 in tiles:
        corner = torch.rand(10_000 // len(tiles) + 1, 2, generator=generator)
        corner = corner * torch.tensor([x2 - x1 - 20.0, y2 - y1 - 20.0]) + torch.tensor([x1, y1])
        parts.append(
            InstanceData(
                bboxes=torch.cat((corner, corner + 20), 1),
                scores=torch.rand(len(corner), generator=generator),
                labels=torch.zeros(len(corner), dtype=torch.long),
            )
        )
    begin = time.perf_counter()
    found = merge(parts, tiles, (4000, 4000), Tiling(640, max_per_img=20_000))
    assert time.perf_counter() - begin < 5
    again = merge(parts, tiles, (4000, 4000), Tiling(640, max_per_img=20_000))
    assert torch.equal(found.bboxes, again.bboxes) and 7000 < len(found) < 10_100
