"""Which checkpoint of a work folder is taken."""

import os

from mmdet_dinov2.runs.checkpoints import find_best_or_last, find_last_checkpoint


def test_a_folder_without_checkpoints_has_none(tmp_path):
    assert find_last_checkpoint(tmp_path) is None
    assert find_best_or_last(tmp_path) is None
    (tmp_path / 'last_checkpoint').write_text('\n')
    assert find_last_checkpoint(tmp_path) is None


def test_a_moved_folder_keeps_its_last_checkpoint(tmp_path):
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/work/epoch_3.pth')
    assert find_last_checkpoint(tmp_path) == '/elsewhere/work/epoch_3.pth'
    (tmp_path / 'epoch_3.pth').touch()
    assert find_last_checkpoint(tmp_path) == str(tmp_path / 'epoch_3.pth')


def test_a_url_stays_a_url(tmp_path):
    (tmp_path / 'last_checkpoint').write_text('s3://bucket/work/epoch_3.pth')
    (tmp_path / 'epoch_3.pth').touch()
    assert find_last_checkpoint(tmp_path) == 's3://bucket/work/epoch_3.pth'


def test_the_newest_best_checkpoint_comes_before_the_last_one(tmp_path):
    (tmp_path / 'last_checkpoint').write_text('epoch_3.pth')
    (tmp_path / 'epoch_3.pth').touch()
    assert find_best_or_last(tmp_path) == str(tmp_path / 'epoch_3.pth')
    # By time: "epoch_2" sorts after "epoch_10" by name.
    for name, time in (('best_ap_epoch_2.pth', 100), ('best_ap_epoch_10.pth', 200)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time, time))
    assert find_best_or_last(tmp_path) == str(tmp_path / 'best_ap_epoch_10.pth')
