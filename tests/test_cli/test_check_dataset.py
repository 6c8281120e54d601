"""The tool that checks a dataset."""

import json
import shutil

import pytest

from mmdet_dinov2.data import generate_shapes

from ..tools import failure_of, run_tool, write_config


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return generate_shapes(tmp_path_factory.mktemp('data') / 'shapes', num_train=8, num_val=4)


def test_sound_data(tmp_path, data, capfd):
    config = write_config(tmp_path, data=data)
    run_tool('check_dataset', config, '--work-dir', tmp_path / 'work', '--samples', 3)
    printed = capfd.readouterr().out
    assert '8 images' in printed and '4 images' in printed and 'error' not in printed
    picture = tmp_path / 'work/data_tiny.png'
    assert picture.stat().st_size > 10_000 and str(picture) in printed


def test_errors_end_with_code_1(tmp_path, data, capfd):
    config = write_config(tmp_path, data=data)
    with pytest.raises(SystemExit) as caught:
        run_tool(
            'check_dataset', config, '--splits', 'val', '--picture', tmp_path / 'a.png',
            '--cfg-options', 'model.bbox_head.num_classes=7',
        )  # fmt: skip
    assert caught.value.code == 1
    printed = capfd.readouterr().out
    assert 'error' in printed and 'num_classes' in printed and (tmp_path / 'a.png').exists()


def test_wrong_arguments(tmp_path, data, capfd):
    config = write_config(tmp_path, data=data)
    assert 'at least 1' in failure_of(capfd, 'check_dataset', config, '--workers', 0)
    assert 'does not exist' in failure_of(capfd, 'check_dataset', 'none.py')


def test_warnings_are_printed_before_a_training(tmp_path, data, capfd):
    config = write_config(tmp_path, 'model["num_queries"] = 1\n', data=data)
    run_tool(
        'train', config, '--work-dir', tmp_path / 'work', '--cfg-options', 'train_cfg.max_epochs=0'
    )
    assert 'warning [train]: ' in capfd.readouterr().err


def test_a_different_order_of_categories_changes_nothing(tmp_path, data):
    """Neither the labels, nor the scores, nor the written predictions."""
    named = {}
    for order in ('sound', 'reversed'):
        folder = tmp_path / order
        folder.mkdir()
        shutil.copytree(data, folder / 'shapes')
        for split in ('train', 'val') if order == 'reversed' else ():
            path = folder / f'shapes/annotations/{split}.json'
            content = json.loads(path.read_text())
            content['categories'].reverse()
            for entry in content['categories']:
                entry['id'] = 100 - 7 * entry['id']
            for entry in content['annotations']:
                entry['category_id'] = 100 - 7 * entry['category_id']
            path.write_text(json.dumps(content))
        run_tool(
            'train', write_config(folder), '--work-dir', folder / 'work', '--cfg-options',
            'train_cfg.max_epochs=1', 'train_cfg.val_interval=1',
            f'val_evaluator.outfile_prefix={folder}/out',
        )  # fmt: skip
        categories = json.loads((folder / 'shapes/annotations/val.json').read_text())['categories']
        names = {entry['id']: entry['name'] for entry in categories}
        rows = json.loads((folder / 'out.bbox.json').read_text())
        named[order] = [dict(row, category_id=names[row['category_id']]) for row in rows]
        (scalars,) = (folder / 'work').glob('*/vis_data/scalars.json')
        rows = [json.loads(line) for line in scalars.read_text().splitlines()]
        named[order, 'loss'] = [row['loss'] for row in rows if 'loss' in row]
        named[order, 'scores'] = [
            {key: value for key, value in row.items() if key.startswith('coco/')} for row in rows
        ]
    assert len(named['sound', 'loss']) == 4 and len(named['sound']) > 50
    assert len({row['category_id'] for row in named['sound']}) > 1
    for key in ('loss', 'scores'):
        assert named['sound', key] == named['reversed', key]
    assert named['sound'] == named['reversed']
