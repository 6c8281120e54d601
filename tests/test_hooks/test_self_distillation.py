"""Schedules of a self-distillation, what is not trained yet, and the guard against collapse."""

from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper

from mmdet_dinov2.engine.hooks import CollapseGuardHook, SelfDistillationHook
from mmdet_dinov2.errors import InputError

from ..test_models.test_self_distillation import losses_of, make_batch, model_cfg
from ..tiny import tiny_detector


def runner_of(model, max_iters=10, tmp_path=None):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    runner = SimpleNamespace(
        model=model,
        optim_wrapper=OptimWrapper(optimizer),
        iter=0,
        epoch=0,
        max_iters=max_iters,
        work_dir=str(tmp_path),
        message_hub=MessageHub.get_instance(f'ssl-{id(model)}'),
        saved=[],
    )
    runner.save_checkpoint = lambda folder, name, meta, by_epoch: runner.saved.append(
        (name, meta['iter'])
    )
    return runner


def tiny_model():
    model = MODELS.build(model_cfg())
    model.init_weights()
    return model.train()


def step(runner, hook, batch):
    hook.before_train_iter(runner, 0)
    loss = sum(losses_of(runner.model, batch).values())
    runner.optim_wrapper.update_params(loss)
    hook.after_train_iter(runner, 0)
    runner.iter += 1


def test_heads_learn_first_and_prototypes_wait():
    model = tiny_model()
    runner = runner_of(model)
    hook = SelfDistillationHook(heads_first=0.2, last_layer_freeze=0.1)
    hook.before_train(runner)
    batch = make_batch()
    changed = []
    for _ in range(3):
        before = {name: p.clone() for name, p in model.named_parameters()}
        step(runner, hook, batch)
        changed.append({n for n, p in model.named_parameters() if not torch.equal(p, before[n])})
    heads = {n for n, _ in model.student.named_parameters(prefix='student') if '_head.' in n}
    last = 'student.dino_head.last_layer.weight'

    def own(names):
        return {name for name in names if not name.startswith('teacher.')}

    assert own(changed[0]) == heads - {last} | {'mask_token'}
    assert own(changed[1]) == heads | {'mask_token'}
    assert 'student.backbone.blocks.0.attn.qkv.weight' in changed[2]
    assert not any(name.startswith('teacher.backbone') for name in changed[0] | changed[1])
    assert 'teacher.dino_head.mlp.0.weight' in changed[0]


def test_schedules():
    model = tiny_model()
    runner = runner_of(model)
    momenta = []
    model.finish_step = momenta.append
    hook = SelfDistillationHook(
        momentum=(0.9, 1.0), teacher_temperature=(0.04, 0.07), temperature_warmup=0.3
    )
    hook.before_train(runner)
    temperatures = []
    for _ in range(10):
        hook.before_train_iter(runner, 0)
        temperatures.append(model.teacher_temperature)
        hook.after_train_iter(runner, 0)
        runner.iter += 1
    assert temperatures == pytest.approx([0.04, 0.05, 0.06] + [0.07] * 7)
    assert momenta[0] == pytest.approx(0.9) and momenta[5] == pytest.approx(0.95)
    assert momenta == sorted(momenta) and momenta[-1] < 1


def test_a_step_that_was_left_out_moves_nothing():
    model = tiny_model()
    runner = runner_of(model)
    model.finish_step = lambda momentum: pytest.fail('the teacher moved')
    hook = SelfDistillationHook()
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)
    runner.optim_wrapper.step_left_out = True
    hook.after_train_iter(runner, 0)


SOUND = dict(target_entropy=0.6, patch_entropy=0.5, patch_cross_entropy=0.8, cls_spread=0.7)


def watch(guard, runner, measures, steps):
    for _ in range(steps):
        runner.model.measures = measures
        guard.after_train_iter(runner, 0)
        runner.iter += 1


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('target_entropy', 0.99, r'target_entropy is 0\.9\d+ \(at most 0\.97 is sound\)'),
        ('patch_entropy', 0.0, r'patch_entropy is 0\.0\d+ \(at least 0\.02 is sound\)'),
        ('cls_spread', 0.0, r'cls_spread is 0\.00\d \(at least 0\.01 is sound\)'),
        ('patch_cross_entropy', 1.5, 'at most 1.2 is sound'),
    ],
)
def test_a_collapse_stops_the_run(tmp_path, name, value, message):
    model = tiny_model()
    runner = runner_of(model, tmp_path=tmp_path)
    guard = CollapseGuardHook(patience=5, horizon=4, interval=3)
    guard.before_train(runner)
    watch(guard, runner, SOUND, 7)
    assert runner.saved == [('last_good.pth', 3), ('last_good.pth', 6)]
    with pytest.raises(InputError, match=message) as caught:
        watch(guard, runner, SOUND | {name: value}, 60)
    assert 'the weights after step' in str(caught.value)
    assert f'{tmp_path}/last_good.pth' in str(caught.value)
    assert runner.iter < 40
    last = runner.saved[-1][1]
    assert f'after step {last},' in str(caught.value)
    assert runner.iter - last >= 4  # nothing was kept while the measures were out of their limits


def test_single_bad_steps_do_not_stop_a_run(tmp_path):
    runner = runner_of(tiny_model(), tmp_path=tmp_path)
    guard = CollapseGuardHook(patience=2, horizon=1, interval=100)
    guard.before_train(runner)
    for _ in range(3):
        watch(guard, runner, SOUND | dict(cls_spread=0.0), 1)
        watch(guard, runner, SOUND, 1)
    with pytest.raises(InputError, match='no weights were sound long enough'):
        watch(guard, runner, SOUND | dict(cls_spread=0.0), 2)


def test_the_guard_continues_when_a_run_resumes(tmp_path):
    runner = runner_of(tiny_model(), tmp_path=tmp_path)
    guard = CollapseGuardHook(patience=4, horizon=1, interval=2)
    guard.before_train(runner)
    watch(guard, runner, SOUND, 2)
    watch(guard, runner, SOUND | dict(cls_spread=0.0), 3)
    again = CollapseGuardHook(patience=4, horizon=1, interval=2)
    again.before_train(runner)
    with pytest.raises(InputError, match='after step 2, which were sound'):
        watch(again, runner, SOUND | dict(cls_spread=0.0), 1)


def test_errors():
    with pytest.raises(InputError, match='heads_first of SelfDistillationHook must lie in 0..1'):
        SelfDistillationHook(heads_first=500)
    with pytest.raises(InputError, match='must be above 0'):
        SelfDistillationHook(teacher_temperature=(0.0, 0.04))
    with pytest.raises(InputError, match='momentum of SelfDistillationHook must be two values'):
        SelfDistillationHook(momentum=(0.99,))
    with pytest.raises(InputError, match='patience of CollapseGuardHook must be a whole number'):
        CollapseGuardHook(patience=0)
    runner = SimpleNamespace(model=tiny_detector())
    with pytest.raises(InputError, match='the model is a PaddingAwareDINO; remove the hook'):
        SelfDistillationHook().before_train(runner)
