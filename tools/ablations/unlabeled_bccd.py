"""BCCD with 20 labeled photos, alone and with the other training photos as unlabeled ones.

Command:    mmdet_dinov2 ablate tools/ablations/unlabeled_bccd.py

BCCD (github.com/Shenggan/BCCD_Dataset, MIT) has to be in data/bccd, in COCO's format, and its 205
training photos, or links to them, in data/bccd_unlabeled. The labeled ones are left out of these.
The model is that of real_time_bccd.py; all runs have 700 steps.
"""

_base_ = 'real_time_bccd.py'

options = {'train_dataloader.dataset.indices': 20, 'own_data.num_train_images': 20}
average = dict(type='TrainedEMAHook', ema_type='ExpMomentumEMA', momentum=0.002, gamma=100)
changes = dict(
    _delete_=True,
    averaged={'custom_hooks': [average]},
    unlabeled={'custom_hooks': [average], 'unlabeled': dict(folder='data/bccd_unlabeled')},
)
references = dict(unlabeled='averaged')
