"""DINO for real time on a fine-tuned DINOv2-B: what ``dino_dinov2_b_ft.py`` has, cut.

At 512 x 512 the backbone of a ViT-S is four fifths of what is left, and nothing but fewer tokens
makes that cheaper. Cut are:

- Levels: strides 16 and 32. Stride 8 has three times as many cells as all other levels together,
  and encoder and decoder sample every one of them.
- Encoder layers: 1 of 6. A ViT has mixed the whole image already.
- Decoder layers and queries: 3 of 6, 300 of 900, as RF-DETR-S.
- Channels between the two layers of feed-forward networks of encoder and decoder: 1024 of 2048, as
  in RT-DETR.
- Windows: 2 x 2 in an image, in all but 3 blocks, as RF-DETR. Their side is half of that of the
  longest image; ``longest_side`` changes both.

Scores learn the IoU of their boxes, as in LW-DETR and RF-DETR (IA-BCE, docs/recipe-parts.md).
"""

_base_ = 'dino_dinov2_b_ft.py'

num_levels = 2
model = dict(
    num_queries=300,
    num_feature_levels=num_levels,
    backbone=dict(window_size=16, global_attn_indexes=[3, 7, 11]),
    neck=dict(scale_factors=(1.0, 0.5), num_outs=num_levels),
    encoder=dict(
        num_layers=1,
        layer_cfg=dict(
            self_attn_cfg=dict(num_levels=num_levels),
            ffn_cfg=dict(feedforward_channels=1024),
        ),
    ),
    decoder=dict(
        num_layers=3,
        layer_cfg=dict(
            cross_attn_cfg=dict(num_levels=num_levels),
            ffn_cfg=dict(feedforward_channels=1024),
        ),
    ),
    bbox_head=dict(loss_cls=dict(_delete_=True, type='IABCELoss')),
)
