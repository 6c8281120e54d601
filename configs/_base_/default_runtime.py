custom_imports = dict(imports=['mmdet_dinov2'])
default_scope = 'mmdet'
runner_type = 'StrictRunner'

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='IntactCheckpointHook',
        interval=1,
        max_keep_ckpts=3,
        save_best='coco/bbox_mAP',
        rule='greater',
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    # This many losses in a row that are infinite or NaN: stop, name the images, keep the batch.
    nonfinite=dict(type='NonFiniteHook', max_steps=5),
    preemption=dict(type='PreemptionHook'),  # SIGTERM, SIGUSR1, Ctrl-C: save, end
    forecast=dict(type='ForecastHook'),  # the final AP, foretold after each evaluation
    visualization=dict(type='ReadableVisualizationHook'),
    loader_memory=dict(type='LoaderMemoryHook'),
)

env_cfg = dict(
    cudnn_benchmark=False,  # image sizes change from batch to batch
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    # Processes without GPUs use gloo. Seconds that the others wait for one that evaluates or draws
    # (NCCL: 600 otherwise).
    dist_cfg=dict(backend='nccl', timeout=3600),
)
randomness = dict(seed=0)

# TensorBoard is used where it is installed. Weights & Biases, offline too, is one more entry:
# dict(type='WandbVisBackend', init_kwargs=dict(mode='offline'))
vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(type='BoxVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(type='ReadableLogProcessor', window_size=50, by_epoch=True)
log_level = 'INFO'
load_from = None
resume = False
