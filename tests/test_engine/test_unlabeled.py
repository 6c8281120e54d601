"""Trainings with unlabeled photos: settings, the run, its log and report, and what is refused."""

import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData

from mmdet_dinov2.analysis.report import ReportInput, render_report
from mmdet_dinov2.data.shapes import generate_shapes
from mmdet_dinov2.engine.hooks.ema import TrainedEMAHook
from mmdet_dinov2.engine.hooks.teacher import averaged_weights, label_photo
from mmdet_dinov2.engine.teacher.models import load_teacher, predict_views
from mmdet_dinov2.engine.teacher.thresholds import TeacherBoxes
from mmdet_dinov2.engine.training import read_config, set_up_training
from mmdet_dinov2.errors import InputError
from mmdet_dinov2.inference import load
from mmdet_dinov2.instance_masks import encode_masks
from mmdet_dinov2.runs.pseudo_labels import last_pseudo_labels
from mmdet_dinov2.runs.run_log import RunLog, read_run
from mmdet_dinov2.sample_meta import IMAGE_WEIGHT, UNSURE_BOXES

from ..test_resume.test_choose import losses_of
from ..tiny import data_sample, randomize, tiny_detector
from ..tools import failure_of, run_tool, write_config
from ..unlabeled import unlabeled_text


@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    return generate_shapes(tmp_path_factory.mktemp('data') / 'shapes', num_train=8, num_val=4)


@pytest.fixture
def data(sound, tmp_path):
    """The dataset of the tiny config, a copy that tests may damage."""
    return shutil.copytree(sound, tmp_path / 'shapes')


def log_of(work_dir):
    return ''.join(path.read_text() for path in sorted(work_dir.glob('*/*.log')))


def set_up(config, folder, tell, **options):
    cfg = read_config(str(config), work_dir=folder / 'work', options=options, tell=tell.append)
    return set_up_training(cfg, tell=tell.append)


@pytest.fixture(scope='module')
def run(tmp_path_factory, sound):
    """The work folder of a training with photos from its 3rd step of 4 on, one of them broken."""
    folder = tmp_path_factory.mktemp('run')
    shutil.copytree(sound, folder / 'shapes')
    (folder / 'shapes/train/000007.jpg').write_bytes(
        (folder / 'shapes/train/000007.jpg').read_bytes()[:-200]
    )
    # 4 of 8 images with labels, 2 steps an epoch.
    config = write_config(folder, unlabeled_text(labeled=4, times=1, burn_in=0.5))
    run_tool('train', config, '--work-dir', folder / 'work')
    return folder / 'work'


@pytest.fixture(scope='module')
def teacher(run):
    """The checkpoint of the run, without the module of tests that its config imports."""
    checkpoint = torch.load(run / 'epoch_2.pth', weights_only=True)
    checkpoint['meta']['config_data']['custom_imports'] = dict(imports=['mmdet_dinov2'])
    torch.save(checkpoint, run / 'teacher.pth')
    return run / 'teacher.pth'


def test_photos_are_trained_on_after_the_burn_in(run):
    log = log_of(run)
    assert 'Unlabeled photos: 4, 2 in each step from step 3 on, full weight from step 4' in log
    (line,) = re.findall('Pseudo-labels of the last steps: .*', log)
    assert '% of 4 photos have sure boxes' in line and 'agreement with the labels' in line
    assert re.search('unlabeled photo .*000007.jpg cannot be read', log) and 'so far' not in log
    checkpoint = torch.load(run / 'epoch_2.pth', weights_only=True)
    assert checkpoint['teacher']['thresholds']['num_photos'] == pytest.approx(4, rel=0.01)
    assert len(losses_of(run)) == 4


def test_log_and_report_have_the_quality_of_the_labels(run):
    log = read_run(run)
    assert not any(key.startswith('pseudo/') for key in log.training[0])
    found = last_pseudo_labels(log)
    assert found.step == 4 and 0 < found.photos <= 1 and 0 <= found.agreement <= 1
    assert [name for name, *_ in found.classes][:2] == ['circle', 'rectangle']
    assert sum(boxes for _, boxes, _ in found.classes) > 0
    # Without the other curves, which take seconds to draw.
    shown = [{k: v for k, v in r.items() if k == 'iter' or 'pseudo/' in k} for r in log.training]
    page = render_report(ReportInput(RunLog('run', shown), base=('base.py', {})))
    assert 'Pseudo-labels of unlabeled photos' in page
    assert '<th scope="row">rectangle</th>' in page
    assert last_pseudo_labels(RunLog('run', log.training[:3])) is None
    assert 'Pseudo-labels' not in render_report(ReportInput(RunLog('run'), base=('base.py', {})))


def test_a_checkpoint_teaches_from_the_first_step(teacher, tmp_path, data):
    config = write_config(tmp_path, unlabeled_text(labeled=4, times=1, averages=False))
    before = teacher.read_bytes()
    run_tool(
        'train', config, '--work-dir', tmp_path / 'work', '--unlabeled', data / 'train',
        '--teacher', teacher, '--amp',
    )  # fmt: skip
    log = log_of(tmp_path / 'work')
    assert f'from step 1 on, full weight from step 2; the teacher is {teacher}' in log
    assert teacher.read_bytes() == before
    saved = Config.fromfile(tmp_path / 'work/tiny.py')
    assert [hook.type for hook in saved.custom_hooks][-1] == 'TeacherHook'
    assert 'TrainedEMAHook' not in str(saved.custom_hooks)


def test_averaged_weights_teach_under_autocast(tmp_path, data):
    """Of a backbone that is trained throughout; its average is no frozen part of the model."""
    text = unlabeled_text(labeled=4, times=1, burn_in=0.5)
    config = write_config(tmp_path, text + "model['backbone']['frozen_stages'] = -1\n")
    states = {}
    for flag in ('--amp', None):
        work = tmp_path / str(flag)
        run_tool('train', config, '--work-dir', work, *[flag] * bool(flag))
        states[flag] = torch.load(work / 'epoch_2.pth', weights_only=True)
    name = 'backbone.blocks.0.mlp.fc1.weight'
    for kind, prefix in (('state_dict', ''), ('ema_state_dict', 'module.')):
        found, expected = (states[flag][kind][prefix + name] for flag in ('--amp', None))
        assert (found - expected).abs().max() < 1e-2
        assert found.dtype == torch.float32 and (found.bfloat16() != found).any()
    assert (states['--amp']['state_dict'][name] != found).any()


def test_settings_of_a_config_without_averages(tmp_path, data):
    tell = []
    config = write_config(tmp_path, 'train_dataloader["dataset"]["indices"] = 5\n')
    cfg = set_up(config, tmp_path, tell, **{'unlabeled': dict(folder=str(data / 'train'), ratio=2)})
    photos = cfg.train_dataloader['unlabeled']
    assert photos['ratio'] == 2
    assert [hook['type'] for hook in cfg.custom_hooks] == ['TrainedEMAHook', 'TeacherHook']
    types = [transform['type'] for transform in photos['dataset']['pipeline']]
    assert len(photos['dataset']['pipeline'][-1]['strong']) == 5
    assert types[0] == 'LoadImageFromFile' and types[-1] == 'PackTwoViews'
    told = '\n'.join(tell)
    assert f'unlabeled: 3 photos in {data}/train' in told
    assert '5 photos of the folder are left out, since they are labeled ones of the train' in told
    assert 'weights are averaged' in told
    again = set_up_training(cfg.copy(), tell=tell.append)
    assert again.custom_hooks == cfg.custom_hooks
    assert again.train_dataloader == cfg.train_dataloader
    assert len(list((tmp_path / 'work/data').glob('unlabeled-*.json'))) == 1


def test_the_strong_view_may_be_the_photo_itself(tmp_path, data):
    config = write_config(tmp_path, 'train_dataloader["dataset"]["indices"] = 5\n')
    settings = dict(folder=str(data / 'train'), strong=[])
    cfg = set_up(config, tmp_path, [], unlabeled=settings)
    assert cfg.train_dataloader['unlabeled']['dataset']['pipeline'][-1]['strong'] == []


def test_without_the_setting_nothing_changes(tmp_path, data):
    tell = []
    config = write_config(tmp_path)
    cfg = set_up(config, tmp_path, tell)
    assert 'unlabeled' not in cfg and 'unlabeled' not in cfg.train_dataloader and not tell
    assert not (tmp_path / 'work/data').exists()


def test_a_photo_that_is_no_image_is_left_out_and_named(tmp_path, data):
    tell = []
    (data / 'train/000003.jpg').write_bytes(b'')
    config = write_config(tmp_path, 'train_dataloader["dataset"]["indices"] = 1\n')
    options = {'unlabeled.folder': str(data / 'train')}
    set_up(config, tmp_path, tell, **options)
    assert any('1 photos in' in line and "('000003.jpg')" in line for line in tell)
    shutil.copy(data / 'train/000004.jpg', data / 'train/000003.jpg')  # repaired
    tell.clear()
    set_up(config, tmp_path, tell, **options)
    assert not any('cannot be read' in line for line in tell)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--unlabeled', '{data}/val'], r'4 photos in .*/val are photos of the val split'),
        (['--unlabeled', '{data}/train'], r'all 8 photos in .*/train are labeled \(8 of train\)'),
        (['--unlabeled', '{data}/annotations'], 'has no photos'),
        (['--unlabeled', '{data}/nowhere'], 'nowhere does not exist'),
        (['--teacher', 'x.pth'], '--teacher labels unlabeled photos'),
        (['--unlabeled', '{data}/more', '--teacher', 'x.pth'], 'the teacher x.pth does not exist'),
        (
            ['--unlabeled', '{data}/more', '--cfg-options', 'unlabeled.burn=0.1'],
            "has no 'burn'; did you mean burn_in",
        ),
        (
            ['--unlabeled', '{data}/more', '--cfg-options', 'unlabeled.burn_in=2'],
            'unlabeled.burn_in is a share of the training',
        ),
        (
            ['--unlabeled', '{data}/more', '--cfg-options', 'unlabeled.ratio=two'],
            "unlabeled.ratio must be a number, but is 'two'",
        ),
        (
            ['--unlabeled', '{data}/more', '--cfg-options', 'unlabeled.ratio=0.3'],
            r'ratio=0.3 is 0.6 photos for the 2 labeled images',
        ),
        (
            ['--unlabeled', '{data}/more', '--cfg-options', 'model.type=FasterRCNN'],
            'unlabeled photos need a detector that weighs images, PaddingAwareDINO',
        ),
    ],
)
def test_what_cannot_be_used_is_one_sentence(tmp_path, data, capfd, arguments, message):
    (data / 'more').mkdir()
    shutil.copy(data / 'train/000001.jpg', data / 'more')
    with (data / 'more/000001.jpg').open('ab') as file:
        file.write(b' ')  # another photo
    config = write_config(tmp_path)
    arguments = [part.format(data=data) for part in arguments]
    error = failure_of(capfd, 'train', config, '--work-dir', tmp_path / 'work', *arguments)
    assert re.search(message, error), error
    assert not list(tmp_path.glob('work/**/*.pth'))


def test_a_teacher_has_to_know_the_classes(teacher):
    device = torch.device('cpu')
    with pytest.raises(InputError, match="does not know 'ring'.* it knows 'circle'"):
        load_teacher(str(teacher), ('ring', 'star'), device)
    loaded = load_teacher(str(teacher), ('star', 'circle'), device)
    assert loaded.labels.tolist() == [1, -1, -1, 0, -1]
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert not loaded.model.training


def test_a_teacher_sees_photos_at_the_size_of_its_own_tests(teacher):
    photo = np.random.default_rng(0).integers(256, size=(99, 150, 3), dtype=np.uint8)
    (expected,) = load(str(teacher), device='cpu').predict(photo)
    loaded = load_teacher(str(teacher), ('circle', 'star'), torch.device('cpu'))
    view = torch.from_numpy(photo.transpose(2, 0, 1).copy())
    (found,) = predict_views(loaded.model, [view], resize=loaded.resize)
    for name in ('bboxes', 'scores', 'labels'):
        assert torch.equal(found.pred_instances[name], expected.pred_instances[name])
    (as_it_is,) = predict_views(loaded.model, [view])
    assert not torch.equal(as_it_is.pred_instances.scores, expected.pred_instances.scores)
    # One that has learned from tiles sees the pixels of the photo.
    checkpoint = torch.load(teacher, weights_only=True)
    checkpoint['meta']['config_data']['model']['tile'] = dict(size=200)
    torch.save(checkpoint, teacher.with_name('tiles.pth'))
    of_tiles = load_teacher(str(teacher.with_name('tiles.pth')), ('circle',), torch.device('cpu'))
    (found,) = predict_views(of_tiles.model, [view], resize=of_tiles.resize)
    assert torch.equal(found.pred_instances.scores, as_it_is.pred_instances.scores)


@pytest.mark.parametrize('finds_masks', [True, False])
def test_a_photo_gets_the_masks_of_the_teacher(finds_masks):
    masks = np.zeros((3, 40, 50), np.uint8)
    masks[1, 5:20, 7:30] = 1
    boxes = torch.tensor([[0, 0, 5, 5], [7, 5, 30, 20], [30, 30, 40, 40]]).float()
    prediction = DetDataSample(pred_instances=InstanceData(bboxes=boxes))
    if finds_masks:
        prediction.pred_instances.masks = encode_masks(masks)
    photo = data_sample(40, 50, 0, masks=True)
    one = torch.tensor([1])
    sure = TeacherBoxes(boxes[one], torch.ones(1), torch.tensor([2]), one)
    label_photo(photo, prediction, sure, boxes[2:], 0.5)
    found = photo.gt_instances
    assert found.labels.tolist() == [2] and torch.equal(found.bboxes.tensor, boxes[1:2])
    # A mask without a pixel is one that is not known.
    assert np.array_equal(found.masks.masks, masks[1:2] * finds_masks)
    assert photo.metainfo[IMAGE_WEIGHT] == 0.5
    assert torch.equal(photo.get(UNSURE_BOXES), boxes[2:])
    nothing = TeacherBoxes(boxes[:0], torch.ones(0), torch.zeros(0, dtype=torch.long), one[:0])
    label_photo(photo, prediction, nothing, boxes[2:], 0.5)
    assert photo.metainfo[IMAGE_WEIGHT] == 0
    assert len(photo.gt_instances) == 0 and photo.gt_instances.masks.masks.shape == (0, 40, 50)


def test_predictions_with_other_weights_leave_the_model_as_it_was():
    model, other = tiny_detector().train(), tiny_detector().requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    views = [torch.randint(256, (3, *size), dtype=torch.uint8) for size in ((70, 56), (45, 99))]
    found = predict_views(model, views, dict(other.named_parameters()))
    assert model.training
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    expected = [predict_views(other.eval(), [view])[0] for view in views]
    for one, alone, view in zip(found, expected, views, strict=True):
        assert not one.pred_instances.scores.requires_grad
        assert torch.allclose(one.pred_instances.scores, alone.pred_instances.scores, atol=1e-5)
        corners = one.pred_instances.bboxes
        assert (corners[:, 2] <= view.shape[2]).all() and (corners[:, 3] <= view.shape[1]).all()


@pytest.mark.parametrize('steps', [0, 1])
def test_the_average_teaches_once_there_is_one(steps):
    model = tiny_detector(backbone=dict(frozen_stages=1)).train()
    hook = TrainedEMAHook(momentum=0.5)
    runner = SimpleNamespace(model=model, iter=0)
    hook.before_run(runner)
    randomize(model)
    for _ in range(steps):
        hook.after_train_iter(runner, 0)
    average = {name: tensor.clone() for name, tensor in model.named_parameters()}
    randomize(model)
    weights = averaged_weights(model, hook)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert weights.keys() == trained.keys() < average.keys()
    assert not any(tensor.requires_grad for tensor in weights.values())
    for name, tensor in trained.items():
        assert torch.equal(weights[name], average[name] if steps else tensor), name


def test_frozen_weights_in_bf16_stay_where_they_are():
    model = tiny_detector(backbone=dict(frozen_stages=2)).train()
    model.backbone.hold_frozen()
    held = {name: p.data_ptr() for name, p in model.backbone.named_parameters()}
    weights = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    precision = torch.autocast('cpu', dtype=torch.bfloat16)
    predict_views(model, [torch.zeros(3, 56, 70, dtype=torch.uint8)], weights, precision)
    assert held == {name: p.data_ptr() for name, p in model.backbone.named_parameters()}


def test_images_that_the_model_resizes_are_refused(tmp_path, data):
    extra = """
model['data_preprocessor'] = dict(batch_augments=[
    dict(type='BatchSyncRandomResize', random_size_range=(56, 84))])
"""
    config = write_config(tmp_path, unlabeled_text(labeled=4, times=1) + extra)
    with pytest.raises(InputError, match='do not work with model.data_preprocessor.batch_augments'):
        set_up(config, tmp_path, [])


def test_amp_leaves_out_what_fp16_needs(tmp_path):
    said = []
    config = write_config(tmp_path, "optim_wrapper = dict(loss_scale='dynamic', dtype='float16')\n")
    cfg = read_config(str(config), work_dir=tmp_path / 'work')
    cfg = set_up_training(cfg, amp=True, tell=said.append)
    assert not {'loss_scale', 'dtype'} & cfg.optim_wrapper.keys()
    assert '--amp computes in bf16, so optim_wrapper.loss_scale is left out' in said
