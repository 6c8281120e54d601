"""Lines on the console."""

from mmdet_dinov2.engine.log_processor import summarize_losses


def test_terms_of_each_kind_are_summed():
    items = {
        'grad_norm': 7.0,
        'loss': 100.0,
        'loss_cls': 1.0,
        'd0.loss_cls': 2.0,
        'enc_loss_cls': 4.0,
        'loss_bbox': 8.0,
        'd11.loss_iou': 16.0,
        'dn_loss_cls': 32.0,
        'd0.dn_loss_iou': 64.0,
        'accuracy': 0.5,
    }
    assert list(summarize_losses(items).items()) == [
        ('loss', 100.0),
        ('loss_cls', 7.0),
        ('loss_bbox', 8.0),
        ('loss_iou', 16.0),
        ('loss_dn', 96.0),
        ('grad_norm', 7.0),
        ('accuracy', 0.5),
    ]


def test_losses_of_other_detectors_stay():
    assert summarize_losses({'loss': 1.0, 'loss_rpn_obj': 2.0}) == {
        'loss': 1.0,
        'loss_rpn_obj': 2.0,
    }
