"""BCCD with 20 labeled photos, alone and with the other training photos as unlabeled ones.

Command:    mmdet_dinov2 ablate tools/ablations/unlabeled_bccd.py

BCCD (github.com/Shenggan/BCCD_Dataset, MIT) has to be in data/bccd, in COCO's format, and its 205
training photos, or links to them, in data/bccd_unlabeled. The labeled ones are left out of these.
All runs have 700 steps.
"""

config = 'dino_dinov2_quickstart'
data = 'data/bccd'
seeds = [0, 1, 2]
options = {
    'train_dataloader.dataset.indices': 20,
    'own_data.num_train_images': 20,
    'min_epoch_steps': 50,  # of 14 epochs
}
average = dict(type='TrainedEMAHook', ema_type='ExpMomentumEMA', momentum=0.002, gamma=100)
changes = dict(
    averaged={'custom_hooks': [average]},
    unlabeled={'custom_hooks': [average], 'unlabeled': dict(folder='data/bccd_unlabeled')},
)
references = dict(unlabeled='averaged')
