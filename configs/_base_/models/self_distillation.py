"""Self-distillation of a DINOv2 backbone, with the heads of the published ViT-L/16 recipe."""

model = dict(
    type='SelfDistillation',
    data_preprocessor=dict(
        type='CropDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    backbone=dict(type='DINOv2', arch='small', patch_size=14, drop_path_rate=0.3),
    # Shared by CLS tokens and patches. `ibot_head=dict(...)` gives patches their own, as for g.
    head=dict(num_prototypes=65536, hidden=2048, bottleneck=256, num_layers=3),
    # 'sinkhorn' for ViT-L and g of the paper. Then a step depends on how it is divided.
    centring='softmax',
    student_temperature=0.1,
    dino_weight=1.0,
    ibot_weight=1.0,
    koleo_weight=0.1,
)
