"""What every run needs: hooks, loops of evaluation, processes, logs."""

custom_imports = dict(imports=['mmdet_dinov2'])
default_scope = 'mmdet'
runner_type = 'StrictRunner'

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='ReadableLoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='IntactCheckpointHook',  # mmdet: CheckpointHook, which keeps all and no best one
        interval=1,
        max_keep_ckpts=3,
        save_best='coco/bbox_mAP',
        rule='greater',
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    # After this many non-finite losses in a row: stop, name the images, keep the batch.
    nonfinite=dict(type='NonFiniteHook', max_steps=5),
    preemption=dict(type='PreemptionHook'),  # on SIGTERM, SIGUSR1 and Ctrl-C: save, then end
    forecast=dict(type='ForecastHook'),  # predicts the final AP after each evaluation
    visualization=dict(type='ReadableVisualizationHook'),
    loader_memory=dict(type='LoaderMemoryHook'),
)

val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

env_cfg = dict(
    cudnn_benchmark=False,  # image sizes change from batch to batch
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    # Without GPUs, gloo takes the place of NCCL. `timeout` is how many seconds the other processes
    # wait for one that evaluates or draws (NCCL's default: 600).
    dist_cfg=dict(backend='nccl', timeout=3600),
)
randomness = dict(seed=0)  # mmdet: a random seed

# TensorBoard is used where it is installed; `--logger` adds W&B, MLflow and ClearML.
vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(type='BoxVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(type='ReadableLogProcessor', window_size=50, by_epoch=True)
log_level = 'INFO'
load_from = None
resume = False
