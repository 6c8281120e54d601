"""The cut of the real-time recipes on photos of blood cells, with the model of the quick start.

Command:    mmdet_dinov2 ablate tools/ablations/real_time_bccd.py

BCCD (github.com/Shenggan/BCCD_Dataset, MIT) has to be in data/bccd, in COCO's format. Photos have
336 pixels; all runs have 728 steps.
"""

config = 'dino_dinov2_quickstart'
data = 'data/bccd'
seeds = [0, 1, 2]
options = {
    'train_dataloader.dataset.pipeline.3.scales': [(side, side) for side in (280, 308, 336)],
    'val_dataloader.dataset.pipeline.1.scale': (336, 336),
    'model.backbone.img_size': 336,
    'model.num_queries': 60,  # photos have up to 30 cells
    'min_epoch_steps': 50,
    # With 8e-4, one seed in three does not learn.
    'optim_wrapper.optimizer.lr': 4e-4,
}
changes = dict(
    # One encoder layer instead of two, and strides 14 and 28 instead of 14, 28 and 56.
    cut={
        'model.encoder.num_layers': 1,
        'model.num_feature_levels': 2,
        'model.neck.scale_factors': (1.0, 0.5),
        'model.neck.num_outs': 2,
        'model.encoder.layer_cfg.self_attn_cfg.num_levels': 2,
        'model.decoder.layer_cfg.cross_attn_cfg.num_levels': 2,
    },
)
