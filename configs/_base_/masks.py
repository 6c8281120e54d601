"""Masks for a detector: its head, costs of its matching, and how annotations are loaded.

Use, with this file as the last of the ``_base_`` of a config: ``model.mask_head=_base_.mask_head``,
``_base_.mask_match_costs`` beside those of the detector, and ``_base_.load_masks`` in the pipeline
of the training in place of ``LoadAnnotations``.
"""

# Masks of a quarter of the size of the image, where the finest level has a stride of 8.
mask_head = dict(num_upsamples=1)

# As in Mask DINO, with the weights of the losses.
mask_match_costs = [
    dict(type='CrossEntropyLossCost', weight=5.0, use_sigmoid=True),
    dict(type='DiceCost', weight=5.0, pred_act=True, eps=1.0),
]

load_masks = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
mask_metrics = ['bbox', 'segm']
