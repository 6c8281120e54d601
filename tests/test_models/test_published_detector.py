"""The published detector of detrex: its geometry for one image, and batches of images."""

import copy

import pytest
import torch
from mmdet.models.detectors import DINO
from mmdet.models.layers import coordinate_to_encoding
from mmdet.models.layers.transformer import dino_layers
from mmdet.registry import MODELS
from mmengine.config import Config

from mmdet_dinov2.checkpoint import load_state_dict
from mmdet_dinov2.layers import GridPyramidLayout

from ..published import GROUPS, SHAPES, random_state, tiny_published_cfg, tiny_state
from ..reference.detrex_dino import (
    slow_backbone,
    slow_detect,
    slow_encoder,
    slow_proposals,
    slow_pyramid,
)
from ..tiny import ARCH, data_sample, pad_batch, total_loss

NUM_QUERIES = 500
# The first two have an odd number of patches, the last one pixel more than 20 x 21 patches.
SIZES = [(320, 427), (313, 500), (321, 337)]
HEADS = ARCH['num_heads']


@pytest.fixture(scope='module')
def state():
    """Tensors by detrex's names; proposals too close to the border are among the best ones."""
    torch.manual_seed(0)
    state = tiny_state(NUM_QUERIES)
    exact = {name: tensor.double() for name, tensor in state.items()}
    image = torch.randn(3, *SIZES[0]).double()
    memory, grids = slow_encoder(
        exact, slow_pyramid(exact, slow_backbone(exact, image, HEADS), GROUPS)
    )
    mean = slow_proposals(exact, memory, grids)[0].mean(0)
    state['class_embed.2.weight'] -= 0.3 * mean.float() / mean.norm()
    return state


@pytest.fixture(scope='module')
def detector(state):
    model = MODELS.build(tiny_published_cfg(NUM_QUERIES))
    load_state_dict(model, state, 'model_final.pth')
    return model.eval()


@pytest.fixture(scope='module')
def images():
    torch.manual_seed(1)
    return [torch.randn(3, *size) for size in SIZES]


def detect(detector, batch, sizes):
    """Returns class logits and boxes (x1, y1, x2, y2) in pixels of all queries of each image."""
    scores, boxes = detector(batch, [data_sample(*size) for size in sizes], mode='tensor')
    found = []
    for (height, width), logits, box in zip(sizes, scores[-1], boxes[-1]):
        cx, cy, w, h = (box * box.new_tensor([width, height, width, height])).unbind(1)
        corners = torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), 1)
        found.append((logits, corners))
    return found


def assert_same(found, expected, of_logits=1e-4, of_pixels=1e-2):
    """Checks that each query of one side has an equal one on the other side."""
    a, b = (
        torch.cat((logits.double() / of_logits, boxes.double() / of_pixels), 1)
        for logits, boxes in (found, expected)
    )
    distances = torch.cdist(a, b, p=torch.inf)
    assert distances.amin(0).max() <= 1 and distances.amin(1).max() <= 1


@torch.no_grad()
@pytest.mark.parametrize('index', range(len(SIZES)))
def test_equals_the_original_for_one_image(detector, state, images, index):
    image, size = images[index], SIZES[index]
    expected = slow_detect(state, image, HEADS, GROUPS)
    (found,) = detect(detector, image[None], [size])
    assert_same(found, (expected.logits, expected.boxes))
    spread = expected.boxes.std(0)
    assert spread.min() > 1 and expected.logits.std(0).min() > 0.01  # or the test could not fail
    # Proposals in the outermost cells of a grid of more than 50 cells are too close to the border.
    at_border = (expected.proposals == 1).all(1).sum()
    assert (at_border > 0) == (max(size) > 400)


@torch.no_grad()
@pytest.mark.slow
def test_equals_the_original_at_full_size(root, images):
    state = random_state(SHAPES)
    cfg = Config.fromfile(root / 'configs/dino_dinov2_b_12ep_published.py').model
    model = MODELS.build(cfg).eval()
    load_state_dict(model, state, 'model_final.pth')
    expected = slow_detect(state, images[0], vit_heads=12, groups=32)
    (found,) = detect(model, images[0][None], [SIZES[0]])
    # 24 layers of random weights multiply the rounding errors of fp32; logits are about 1.
    assert_same(found, (expected.logits, expected.boxes), of_logits=3e-4, of_pixels=2e-2)


@torch.no_grad()
def test_pyramid_equals_the_original(detector, state, images):
    exact = {name: tensor.double() for name, tensor in state.items()}
    for image, size in zip(images, SIZES):
        expected = slow_pyramid(exact, slow_backbone(exact, image.double(), HEADS), GROUPS)
        found = detector.extract_feat(image[None])
        for level, grid in zip(found, detector.layout_of([size], image.device).grids[0]):
            wanted = expected.pop(0)
            assert tuple(wanted.shape[-2:]) == grid
            got = level[0, :, : grid[0], : grid[1]]
            torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5)
            assert level.count_nonzero() == got.count_nonzero()


@torch.no_grad()
def test_predictions_do_not_depend_on_batch_mates(detector, images):
    batched = detect(detector, pad_batch(images, (390, 520)), SIZES)
    for image, size, found in zip(images, SIZES, batched):
        (alone,) = detect(detector, image[None], [size])
        assert_same(found, alone)


@torch.no_grad()
def test_an_image_smaller_than_two_patches_has_a_cell_on_every_level(detector):
    layout = detector.layout_of([(9, 40)], torch.device('cpu'))
    assert layout.grids == [((2, 6), (1, 3), (1, 1), (1, 1))]
    image = torch.randn(3, 9, 40)
    (alone,) = detect(detector, image[None], [(9, 40)])
    batched = detect(detector, pad_batch([image], (70, 90)), [(9, 40)])
    assert_same(batched[0], alone)


@torch.no_grad()
def test_equals_mmdets_dino_without_padding(detector, images, monkeypatch):
    """mmdet's encoder, proposals, decoder and head, behind the same backbone and pyramid."""
    monkeypatch.setattr(detector.bbox_head, 'reference_eps', 1e-5)  # as in mmdet's head
    cfg = tiny_published_cfg(NUM_QUERIES)
    del cfg['coordinates'], cfg['bbox_head']['reference_eps']
    cfg['type'] = 'DINO'
    cfg['bbox_head']['type'] = 'DINOHead'
    cfg['train_cfg']['assigner']['type'] = 'HungarianAssigner'
    theirs = MODELS.build(cfg).eval()
    assert type(theirs) is DINO
    # Some versions of mmdet encode a query with twice the channels.
    theirs.decoder.ref_point_head = copy.deepcopy(detector.decoder.ref_point_head)
    dims = detector.embed_dims
    monkeypatch.setattr(
        dino_layers,
        'coordinate_to_encoding',
        lambda points, **_: coordinate_to_encoding(points, num_feats=dims // 2),
    )
    theirs.load_state_dict(detector.state_dict())
    for image, size in zip(images[1:], SIZES[1:]):
        (found,) = detect(detector, image[None], [size])
        sample = data_sample(*size)
        sample.set_metainfo(dict(batch_input_shape=size))
        feats = theirs.extract_feat(image[None])
        inputs = theirs.forward_transformer(feats, [sample])
        scores, boxes = theirs.bbox_head(**{k: inputs[k] for k in ('hidden_states', 'references')})
        scale = boxes.new_tensor([size[1], size[0]] * 2)
        cx, cy, w, h = (boxes[-1, 0] * scale).unbind(1)
        corners = torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), 1)
        assert_same(found, (scores[-1, 0], corners))


def test_coordinates_are_those_of_the_grids():
    grids = [((4, 6), (2, 3)), ((2, 2), (1, 1))]
    layout = GridPyramidLayout([(31, 45), (9, 16)], (8, 16), torch.device('cpu'), grids)
    assert layout.extents.tolist() == [[[1.0, 1.0]] * 2] * 2
    assert layout.centers[0].tolist() == pytest.approx([0.5 / 6, 0.5 / 4])
    assert layout.centers[24].tolist() == pytest.approx([0.5 / 3, 0.5 / 2])
    assert layout.centers[-1].tolist() == [0.5, 0.5]


@pytest.mark.parametrize('num_boxes', [(3, 2), (0, 0)])
def test_trains_with_finite_gradients(num_boxes):
    torch.manual_seed(2)
    model = MODELS.build(tiny_published_cfg(200))
    model.init_weights()
    load_state_dict(model, tiny_state(200), 'model_final.pth')
    model.train()
    sizes = [(64, 830), (99, 90)]  # of 200 and more columns, so that borders are chosen
    samples = [data_sample(*size, n) for size, n in zip(sizes, num_boxes)]
    losses = model.loss(pad_batch([torch.randn(3, *size) for size in sizes], (120, 840)), samples)
    total_loss(losses).backward()
    assert all(torch.isfinite(term).all() for term in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ('coordinates', 'pooling', 'message'),
    [
        ('grid', 'ceil', "coordinates='grid' and a neck with pooling='floor' belong together"),
        ('image', 'floor', "got coordinates='image' and pooling='floor'"),
        ('cells', 'floor', r"coordinates must be one of \('image', 'grid'\), got 'cells'"),
        ('grid', 'round', r"pooling must be one of \('ceil', 'floor'\), got 'round'"),
    ],
)
def test_settings_that_contradict_are_named(coordinates, pooling, message):
    cfg = tiny_published_cfg(20)
    cfg['coordinates'] = coordinates
    cfg['neck']['pooling'] = pooling
    with pytest.raises(ValueError, match=message):
        MODELS.build(cfg)
