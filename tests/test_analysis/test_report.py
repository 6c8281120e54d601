"""The page about a run: its parts, hostile names, missing parts, and the page in a browser."""

import json
import re
import shutil
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from mmdet_dinov2.analysis.config_diff import diff, nearest_config
from mmdet_dinov2.analysis.report import ReportInput, read_environment, render_report
from mmdet_dinov2.analysis.report_input import collect
from mmdet_dinov2.runs.run_log import RunLog, read_run

from ..columns import columns_of_entries
from ..logs import write_part
from ..test_data.images import bomb_png, jpeg
from ..tools import failure_of, run_tool, write_config
from .browser import open_page

HOSTILE = '</td><script>console.error("class")</script><img src=x onerror=alert(1)>'
HOSTILE_FILE = '"><img src=x onerror=console.error(2)>.png'
# Without a base the config is compared with all configs of the project, which takes a second.
BASE = ('base.py', dict(train_cfg=dict(max_epochs=9)))
CONFIG = """train_cfg = dict(max_epochs=15)
val_dataloader = dict(dataset=dict(type='CocoDataset', data_root='{root}/', ann_file='val.json',
    data_prefix=dict(img='images/'), metainfo=dict(classes=({classes}))))
"""


@pytest.fixture(scope='module')
def work_dir(tmp_path_factory):
    """A run of 10 epochs on data with hostile names; its predictions lie beside it."""
    folder = tmp_path_factory.mktemp('report')
    (folder / 'images').mkdir()
    names = ['cat', HOSTILE, *(f'a rather long name of class number {i}' for i in range(10))]
    rng = np.random.default_rng(0)
    images, annotations, predictions = [], [], []
    for i in range(1, 8):
        name = HOSTILE_FILE if i == 1 else f'{i}.png'
        Image.fromarray(rng.integers(0, 255, (40, 30 + 20 * i, 3), np.uint8)).save(
            folder / 'images' / name, 'PNG'
        )
        images.append(dict(id=i, file_name=name, width=30 + 20 * i, height=40))
        for k in range(i % 4):
            bbox = [5 + 8 * k, 4, 20, 30]
            category = (i + k) % len(names) + 1
            annotations.append(
                dict(id=len(annotations) + 1, image_id=i, category_id=category, bbox=bbox, area=600)
            )
            predictions.append(dict(image_id=i, category_id=category, bbox=bbox, score=0.9 - k / 5))
    predictions.append(dict(image_id=1, category_id=2, bbox=[1, 1, 9, 9], score=0.9))
    categories = [dict(id=i, name=name) for i, name in enumerate(names, 1)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (folder / 'val.json').write_text(json.dumps(content))
    (folder / 'predictions.json').write_text(json.dumps(predictions))
    config = CONFIG.format(root=folder, classes=', '.join(map(repr, names)))
    log = write_part(folder / 'work & <b>run', '20250101_000000', 1, 1000, config=config)
    log.parents[1].joinpath('20250101_000000.log').write_text(
        '2025 - INFO - \n-----\nSystem environment:\n    sys.platform: linux\n'
        '    GPU 0: <i>none</i>\n\nRuntime environment:\n    seed: 0\n'
    )
    return log.parents[2]


@pytest.fixture(scope='module')
def page(work_dir):
    """The report as a file."""
    given = collect(work_dir, predictions=work_dir.parent / 'predictions.json')
    given.base = BASE
    path = work_dir / 'report.html'
    path.write_text(render_report(given))
    return path


def test_all_parts_are_there(page):
    text = page.read_text()
    for part in ('curves', 'forecast', 'scores', 'classes', 'sizes', 'confusions', 'images',
                 'config', 'environment'):  # fmt: skip
        assert f'<section id="{part}"' in text
    assert 'class="missing"' not in text and 'class="problem"' not in text
    assert 'sys.platform' in text and 'AP, IoU 0.50:0.95' in text
    assert 'IDEA-Research' not in text  # no drop, no prior
    assert len(page.read_bytes()) < 5 * 2**20
    assert text.count('data:image/jpeg;base64,') == 2 * 7  # both panels of every image


class Addresses(HTMLParser):
    """Collects the addresses that the tags of a page refer to."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        names = ('src', 'href', 'xlink:href', 'srcset', 'action', 'data')
        self.found += [value for name, value in attrs if name in names]


def test_it_does_not_need_other_files(page):
    parser = Addresses()
    parser.feed(page.read_text())
    assert len(parser.found) > 20
    assert all(address.startswith(('data:', '#')) for address in parser.found)
    assert all(a.startswith('#') for a in re.findall(r'url\((.*?)\)', page.read_text()))
    assert '@import' not in page.read_text()


def test_names_are_text(page):
    text = page.read_text()
    assert '<script' not in text and '<img src=x' not in text and '<b>run' not in text
    assert '&lt;script&gt;' in text and 'work &amp; &lt;b&gt;run' in text
    assert '<i>none' not in text


def test_pictures_have_texts(page):
    text = page.read_text()
    assert all(' alt="' in tag for tag in re.findall(r'<img [^>]*>', text))
    assert all('aria-label="' in tag for tag in re.findall(r'<svg [^>]*>', text))


def entries_of(columns):
    """Returns the images and annotations of a file as it has them."""
    images = [columns.image(index) for index in range(columns.num_images)]
    return images, columns.annotations(np.arange(columns.num_annotations))


def test_mistakes_are_named_and_drawn_dashed(work_dir, monkeypatch):
    given = collect(work_dir, predictions=work_dir.parent / 'predictions.json')
    given.base = BASE
    # Image 7 has three boxes, the first a crowd: one is found twice, one as a different class.
    images, annotations = entries_of(given.annotations)
    truth = [a for a in annotations if a['image_id'] == 7]
    truth[0].update(iscrowd=1, bbox=[80, 4, 20, 30])
    given.annotations = columns_of_entries(
        'a.json', images, given.annotations.categories, annotations
    )
    first, second = [dict(p) for p in given.predictions if p['image_id'] == 7][1:]
    second['category_id'] = second['category_id'] % 12 + 1
    others = [p for p in given.predictions if p['image_id'] != 7]
    nothing = dict(first, bbox=[130, 4, 20, 30])
    given.predictions = [*others, first, second, dict(first, score=0.4), nothing]
    drawn = []
    monkeypatch.setattr(
        'mmdet_dinov2.analysis.report.draw_small',
        lambda image, boxes, names, dashed: drawn.append((image.shape[1], boxes, dashed)) or b'',
    )
    text = render_report(given)
    assert (
        '7.png</strong>: 1 of 2 boxes found, 4 predictions (1 correct, 1 of a different class, '
        '1 on a box that already has one, 1 on background), F1 0.33' in text
    )
    (_, boxes, dashed), (_, found, wrong) = [entry for entry in drawn if entry[0] == 170]
    assert boxes == truth[1:] and dashed == [False, True]
    assert len(found) == 4 and [p for p, w in zip(found, wrong, strict=True) if not w] == [first]


def test_hostile_and_turned_images(work_dir, tmp_path, monkeypatch):
    given = collect(work_dir, predictions=work_dir.parent / 'predictions.json')
    given.base = BASE
    given.image_folder = str(tmp_path / 'images')
    shutil.copytree(work_dir.parent / 'images', tmp_path / 'images')
    (tmp_path / 'images/2.png').write_bytes(bomb_png())
    (tmp_path / 'images/3.png').write_bytes((tmp_path / 'images/3.png').read_bytes()[:60])
    (tmp_path / 'images/4.png').write_bytes(jpeg(110, 40, orientation=6))  # annotated as stored
    (tmp_path / 'images/5.png').write_bytes(jpeg(40, 130, orientation=6))  # as shown
    shutil.copy(work_dir.parent / 'images/6.png', tmp_path / 'secret.png')
    images, annotations = entries_of(given.annotations)
    next(image for image in images if image['id'] == 6)['file_name'] = '../secret.png'
    given.annotations = columns_of_entries(
        'a.json', images, given.annotations.categories, annotations
    )
    drawn = []
    monkeypatch.setattr(
        'mmdet_dinov2.analysis.report.draw_small',
        lambda image, boxes, names, dashed: drawn.append(image.shape[:2]) or b'',
    )
    text = render_report(given)
    for name, reason in (
        ('2.png', 'decompression bomb|cannot be decoded'),  # of which rows can be read
        ('3.png', 'is not a valid image'),
        ('../secret.png', 'lies outside the image folder'),
    ):
        note = re.search(rf'<strong>{re.escape(name)}</strong>: (.*?)</figcaption>', text)
        assert 'the image cannot be shown' in note[1] and re.search(reason, note[1])
    assert set(drawn) == {(40, 50), (40, 110), (40, 130), (40, 170)}


def test_classes_are_sorted(work_dir):
    given = collect(work_dir, predictions=work_dir.parent / 'predictions.json')
    given.predictions = [p for p in given.predictions if p['category_id'] != 2]
    given.base = BASE
    text = render_report(given)
    table = text[text.index('<section id="classes"') : text.index('<section id="sizes"')]
    values = re.findall(r'</th><td class="n">([\d.–]+)</td>', table)
    numbers = [float(v) if v != '–' else -1 for v in values]
    assert len(numbers) == 12 and numbers == sorted(numbers, reverse=True)
    assert numbers[0] == 100 and 0 in numbers


def test_an_empty_work_folder(tmp_path):
    text = render_report(collect(tmp_path))
    assert 'The folder does not contain the log of a training.' in text
    assert 'Nothing has been logged yet.' in text
    assert 'Without predictions there are no scores' in text and 'did not save a config' in text


def test_only_a_log(tmp_path):
    write_part(tmp_path, '20250101_000000', 1, 90)  # no evaluation
    text = render_report(collect(tmp_path))
    assert 'loss, sum of all terms' in text
    assert 'No forecast: a forecast needs at least 5 evaluations, but the log has 0' in text
    assert 'does not have exactly one validation dataset' in text


def test_missing_data(work_dir, tmp_path):
    copy = tmp_path / 'work'
    shutil.copytree(work_dir, copy)
    config = copy / '20250101_000000/vis_data/config.py'
    config.write_text(config.read_text().replace('val.json', 'gone.json'))
    text = ' '.join(collect(copy).problems)
    assert 'The validation data cannot be read' in text and 'gone.json' in text
    assert 'has not saved a checkpoint' in ' '.join(collect(work_dir).problems)
    given = collect(work_dir, predictions=work_dir.parent / 'predictions.json')
    given.image_folder = str(tmp_path / 'nowhere')
    given.base = BASE
    assert 'the image cannot be shown' in render_report(given)


def test_environment(work_dir):
    rows = read_environment(read_run(work_dir))
    assert rows == [('sys.platform', 'linux'), ('GPU 0', '<i>none</i>')]
    assert read_environment(RunLog('empty')) == []


def test_config_diff(root):
    base = dict(a=1, b=dict(c=(1, 2), d=[dict(e=1)]), work_dir='x')
    changed = dict(a=2, b=dict(c=[1, 2], d=[dict(e=1), dict(e=3)]), work_dir='y')
    assert diff(base, changed) == [('a', '1', '2'), ('b.d.1.e', '(not set)', '3')]
    filled = dict(val_evaluator=dict(ann_file='val.json'), visualizer=dict(type='V'))
    assert diff(base, {**base, **filled}) == []
    named = dict(val_evaluator=dict(ann_file='other.json'))
    assert len(diff({**base, **filled}, {**base, **filled, **named})) == 1
    from mmengine.config import Config

    cfg = Config.fromfile(root / 'configs/dino_dinov2_b_12ep_cosine.py').to_dict()
    cfg['optim_wrapper']['optimizer']['lr'] = 3.0
    name, rows = nearest_config(cfg)
    assert name == 'dino_dinov2_b_12ep_cosine'
    assert [row[0] for row in rows] == ['optim_wrapper.optimizer.lr']


def test_base_that_was_named():
    given = ReportInput(RunLog('a'), config=dict(x=1), base=('other.py', dict(x=7)))
    text = render_report(given)
    assert 'other.py' in text and '<td>7</td><td>1</td>' in text


@pytest.mark.parametrize('width', [390, 1280])
def test_in_a_browser(page, width):
    content, view, title, console = open_page(page, width)
    assert (content, view) == (width, width)  # no sideways scrolling
    assert 'work &amp; &lt;b&gt;run – report' in title
    assert console == []


def test_the_browser_notices_faults(tmp_path):
    page = tmp_path / 'bad.html'
    page.write_text('<title>t</title><p style="width: 700px">x</p><script>nothing()</script>')
    content, view, _, console = open_page(page, 390)
    assert content > view == 390
    assert any('nothing is not defined' in line for line in console)


def test_tool_runs_the_model(tmp_path, capfd):
    config = write_config(tmp_path)
    run_tool('train', config, '--work-dir', tmp_path / 'work')
    before = {path for path in tmp_path.rglob('*') if path.is_file()}
    run_tool('report', tmp_path / 'work')
    new = {path for path in tmp_path.rglob('*') if path.is_file()} - before
    assert new == {tmp_path / 'work/report.html'}
    text = (tmp_path / 'work/report.html').read_text()
    assert 'made with best_coco_bbox_mAP_epoch_2.pth' in text
    assert 'dino_dinov2_quickstart' in text and text.count('data:image/jpeg') == 8
    assert 'sys.platform' in text and len(text) < 5 * 2**20
    assert 'none does not exist' in failure_of(capfd, 'report', tmp_path / 'none')
    error = failure_of(capfd, 'report', tmp_path / 'work', '--predictions', 'none.json')
    assert 'none.json do not exist' in error
    # Images of another file, whose ids are not those of the validation split.
    content = json.loads((tmp_path / 'shapes/annotations/train.json').read_text())
    for image in content['images']:
        image['id'] += 1000
    for annotation in content['annotations']:
        annotation['image_id'] += 1000
    ann_file = tmp_path / 'shapes/annotations/other.json'
    ann_file.write_text(json.dumps(content))
    arguments = ('--ann-file', str(ann_file), '--img-dir', str(tmp_path / 'shapes/train'))
    run_tool('report', tmp_path / 'work', *arguments)
    text = (tmp_path / 'work/report.html').read_text()
    num_images = len(content['images'])
    assert f'{ann_file}, {num_images} images; predictions: made with best' in text
    given = collect(tmp_path / 'work', ann_file=arguments[1], image_folder=arguments[3])
    assert {found['image_id'] for found in given.predictions} == set(range(1001, 1001 + num_images))


def test_a_config_of_somebody_else_runs_no_code(tmp_path, capfd):
    """Neither its transforms, nor its dataset, nor its hooks."""
    config = write_config(tmp_path)
    work = tmp_path / 'work'
    run_tool('train', config, '--work-dir', work, '--cfg-options', 'train_cfg.max_epochs=1')
    saved = next(work.glob('*/vis_data/config.py'))
    sound = saved.read_text()
    evil = f"dict(type='os.system', command='touch {tmp_path}/marker')"
    start = sound.index('val_dataloader = dict(')
    at = sound.index('pipeline=[', start) + len('pipeline=[')
    cases = {
        'transform': sound[:at] + f'{evil}, ' + sound[at:],
        'hook': f'{sound}\ncustom_hooks = [{evil}]\n',
        'dataset': sound[:start]
        + re.sub(r"'[\w.]*CocoDataset'", "'os.path'", sound[start:], count=1),
        'import': f"{sound}\ncustom_imports = dict(imports=['this'])\n",
    }
    assert cases['dataset'] != sound
    for name, text in cases.items():
        saved.write_text(text)
        run_tool('report', work)
        page = (work / 'report.html').read_text()
        assert ('cannot be run' in page or 'nothing is evaluated' in page) == (name != 'hook'), name
        assert not (tmp_path / 'marker').exists() and 'this' not in sys.modules
