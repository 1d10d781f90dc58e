"""Learning rates over a training, against closed forms; gradient norms; records' identity."""

import dataclasses

import numpy as np
import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from tasks import TASKS, Toy, batch_of

import methods.rfnet  # noqa: F401  # registers the method
from benchmark.engine import building, loading, training
from benchmark.engine.experiment import experiment
from benchmark.engine.plan import protocol_for
from benchmark.engine.protocol import LATER, Protocol
from benchmark.engine.schedules import schedulers
from benchmark.errors import UserError
from benchmark.method import IGNORE
from benchmark.missing import Sampler
from benchmark.options import Spec
from benchmark.report.settings import words
from methods.modality_dropout import ModalityDropout

STEPS = 10


def rates(**fields):
    """The learning rate of each step."""
    protocol = Protocol(lr=1.0, epochs=12, precision='float32', **fields)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    plans = [
        PARAM_SCHEDULERS.build(plan, default_args={'optimizer': optimizer})
        for plan in schedulers(protocol, STEPS)
    ]
    found = []
    for _ in range(protocol.epochs * STEPS):
        found.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for plan in plans:
            plan.step()
    return np.array(found)


@pytest.mark.parametrize(
    ('schedule', 'rate'),
    [
        ('constant', lambda t, steps: np.ones(steps)),
        ('cosine', lambda t, steps: (1 + np.cos(np.pi * t / steps)) / 2),
        # mmengine's polynomial is 0 at the last step, its cosine would be at the one after it.
        ('poly', lambda t, steps: (1 - t / (steps - 1)) ** 0.9),
    ],
)
def test_the_rate_follows_its_closed_form_after_the_warm_up(schedule, rate):
    for warmup, steps in ((0.0, 120), (2.0, 100)):
        found = rates(schedule=schedule, warmup=warmup)[120 - steps :]
        assert found == pytest.approx(rate(np.arange(steps), steps), abs=1e-9)


def test_step_divides_by_ten_at_the_given_shares():
    t = np.arange(120)
    thirds = 0.1 ** ((t >= 20).astype(int) + (t >= 40) + (t >= 60))
    assert rates(schedule='step', warmup=0.0) == pytest.approx(thirds)
    late = 0.1 ** ((t >= 60).astype(int) + (t >= 96))
    assert rates(schedule='step:0.5/0.8', warmup=0.0) == pytest.approx(late)


def test_hold_linear_falls_from_half_of_the_training_on():
    t = np.arange(120)
    assert rates(schedule='hold_linear', warmup=0.0) == pytest.approx(
        np.where(t < 60, 1, 1 - (t - 60) / 59), abs=0.02
    )


@pytest.mark.parametrize('steps', [7, 10, 15, 40])
@pytest.mark.parametrize('name', ['SGD', 'Adam', 'AdamW'])
def test_onecycle_moves_rate_and_momentum_as_pytorch_does(name, steps):
    protocol = Protocol(
        optimizer=name, lr=0.5, epochs=3, schedule='onecycle', precision='float32', momentum=0.9
    )
    momentum = {'momentum': 0.9} if name == 'SGD' else {}

    def group(schedulers_of):
        optimizer = getattr(torch.optim, name)(
            [torch.nn.Parameter(torch.zeros(1))], 0.5, **momentum
        )
        plans, found = schedulers_of(optimizer), []
        for step in range(3 * steps):
            now = optimizer.param_groups[0]
            found.append((now['lr'], now['momentum'] if name == 'SGD' else now['betas'][0]))
            optimizer.step()
            for plan in plans if step < 3 * steps - 1 else ():
                plan.step()
        return np.array(found)

    expected = group(
        lambda o: [torch.optim.lr_scheduler.OneCycleLR(o, 0.5, 3 * steps, pct_start=0.1)]
    )
    ours = group(
        lambda o: [
            PARAM_SCHEDULERS.build(plan, default_args={'optimizer': o})
            for plan in schedulers(protocol, steps)
        ]
    )
    assert ours == pytest.approx(expected, abs=1e-9)
    assert np.ptp(ours[:, 1]) == pytest.approx(0.1, abs=0.02)


def test_onecycle_of_ten_steps_has_no_rise_and_falls_as_others_do():
    # PyTorch's own divides by zero here; those of 9.99 and 10.01 steps, in continuous time, do not.
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weight], 0.5)
    protocol = Protocol(lr=0.5, epochs=2, schedule='onecycle', precision='float32')
    plans = [
        PARAM_SCHEDULERS.build(plan, default_args={'optimizer': optimizer})
        for plan in schedulers(protocol, 5)
    ]
    found = []
    for _ in range(10):
        found.append((optimizer.param_groups[0]['lr'], optimizer.param_groups[0]['betas'][0]))
        optimizer.step()
        for plan in plans if len(found) < 10 else ():
            plan.step()
    lr, beta = np.array(found).T
    share = np.cos(np.pi * np.arange(10) / 9)
    assert lr[1:] == pytest.approx((0.5 * (1 + share) / 2 + 2e-6 * (1 - share) / 2)[1:], abs=1e-6)
    assert beta[1:] == pytest.approx((0.9 - 0.05 * share)[1:], abs=1e-6)
    assert (lr[0], beta[0]) == pytest.approx((0.02, 0.95))


def test_onecycle_leaves_a_protocol_without_momentum_without_it():
    protocol = Protocol(
        optimizer='SGD', lr=1.0, epochs=2, schedule='onecycle', precision='float32', momentum=0.0,
        weight_decay=0.0,
    )  # fmt: skip
    layers = torch.nn.ModuleList(torch.nn.Linear(1, 1, bias=False) for _ in range(2))
    wrapper = build_optim_wrapper(layers, training.optim_wrapper(protocol))
    plans = [
        PARAM_SCHEDULERS.build(plan, default_args={'optimizer': wrapper})
        for plan in schedulers(protocol, STEPS)
    ]
    weights = [layer.weight.item() for layer in layers]
    for step in range(2 * STEPS):
        rate = wrapper.get_lr()['lr'][0]
        # Some weights get their first gradient late, as those of terms that start late.
        used = layers if step > 4 else layers[:1]
        wrapper.update_params(sum(layer.weight.sum() for layer in used))
        for k in range(len(used)):
            weights[k] -= rate
            assert layers[k].weight.item() == pytest.approx(weights[k], rel=1e-5)
        for plan in plans if step < 2 * STEPS - 1 else ():
            plan.step()


def test_the_warm_up_comes_before():
    found = rates(schedule='step:0.5', warmup=2.0)
    assert found[:20] == pytest.approx(np.linspace(1 / 21, 1, 20))
    assert found[20] == 1


@pytest.mark.parametrize('given', ['step:', 'step:x', 'step:0.8/0.5', 'step:1.2', 'step:0', 'stp'])
def test_bad_schedules_are_told(given):
    with pytest.raises(UserError, match='schedule'):
        Protocol(schedule=given)


def test_clip_bounds_the_norm_of_the_step():
    protocol = Protocol(optimizer='SGD', lr=1.0, momentum=0.0, weight_decay=0.0, clip=0.01)
    protocol = dataclasses.replace(protocol, precision='float32')
    torch.manual_seed(0)
    method = ModalityDropout(TASKS['vectors'])
    before = torch.nn.utils.parameters_to_vector(method.parameters()).detach().clone()
    wrapper = build_optim_wrapper(method, training.optim_wrapper(protocol))
    method.train_step(batch_of(TASKS['vectors']), wrapper)
    moved = torch.nn.utils.parameters_to_vector(method.parameters()).detach() - before
    assert moved.norm() == pytest.approx(0.01, rel=1e-3)
    half = training.optim_wrapper(dataclasses.replace(protocol, precision='bfloat16'))
    assert half['clip_grad'] == {'max_norm': 0.01}


@pytest.mark.parametrize(
    ('optimizer', 'momentum', 'fused'),
    [('AdamW', 0.9, True), ('Adam', 0.9, True), ('SGD', 0.0, True), ('SGD', 0.9, None)],
)
def test_weights_are_not_updated_one_by_one(optimizer, momentum, fused):
    protocol = Protocol(optimizer=optimizer, momentum=momentum)
    config = training.optim_wrapper(dataclasses.replace(protocol, precision='float32'))
    wrapper = build_optim_wrapper(torch.nn.Linear(1, 1), config)
    (group,) = wrapper.optimizer.param_groups
    # Where nothing is said, PyTorch joins all weights on a GPU (`foreach`).
    assert (group['fused'], group['foreach']) == (fused, None)


@pytest.mark.parametrize(('nesterov', 'momentum'), [(True, 0.9), (False, 0.9), (True, 0.0)])
def test_momentum_is_plain_or_nesterov_s(nesterov, momentum):
    protocol = Protocol(
        optimizer='SGD', lr=0.5, momentum=momentum, weight_decay=0.0, nesterov=nesterov
    )
    layer = torch.nn.Linear(1, 1, bias=False)
    config = training.optim_wrapper(dataclasses.replace(protocol, precision='float32'))
    wrapper = build_optim_wrapper(layer, config)
    weight, velocity = layer.weight.item(), 0.0
    for _ in range(3):
        wrapper.update_params(layer.weight.square().sum())
        gradient = 2 * weight
        velocity = momentum * velocity + gradient
        weight -= 0.5 * (gradient + momentum * velocity if nesterov else velocity)
        assert layer.weight.item() == pytest.approx(weight, rel=1e-5, abs=1e-6)


def test_fields_younger_than_the_first_records_leave_their_identity_alone():
    plain = Protocol()
    assert LATER
    assert not set(LATER) & set(plain.recorded())
    assert set(plain.recorded()) | set(LATER) == set(Protocol.fields())
    for field, value in {'clip': 1.0, 'ema': 0.99, 'nesterov': False}.items():
        changed = dataclasses.replace(plain, **{field: value})
        assert changed.recorded()[field] == value
        assert changed.id('data') != plain.id('data')


def trained(tmp_path, augment, epochs=2, name='a'):
    task = TASKS['rooms']
    data = Toy(task, (8, 4, 4))
    train = dataclasses.replace(data.split('train'), augment=augment)
    train.available[3, 1] = False
    samples = loading.Samples(train, task, train.available, Sampler('uniform', task.names))
    loaders = (
        loading.train_loader(samples, 4, 0, False),
        loading.test_loader(
            loading.Samples(data.split('val'), task, np.ones((4, 2), bool)), 4, 0, False
        ),
    )
    torch.manual_seed(0)
    method = ModalityDropout(task)
    protocol = Protocol(epochs=epochs, batch_size=4, precision='float32')
    job = training.Job(tmp_path / name, 'identity', 0, 'cpu')
    training.train(method, loaders, protocol, job, lambda *_: None)
    return torch.nn.utils.parameters_to_vector(method.parameters())


def test_augmentation_acts_in_training_alone_and_repeats_with_the_seed(tmp_path):
    seen = []

    def noisy(batch):
        seen.append(batch)
        inputs = {name: x + torch.randn(len(x), 1, 1, 1) for name, x in batch.inputs.items()}
        return batch._replace(inputs=inputs)

    first, again = (trained(tmp_path, noisy, name=n) for n in 'ab')
    assert len(seen) == 2 * 2 * 2  # trainings, epochs, batches: none of validation
    assert torch.equal(first, again)
    assert not torch.equal(first, trained(tmp_path, None, name='c'))


def test_augmentation_cannot_put_content_into_what_is_not_there():
    task = TASKS['rooms']
    method, batch = ModalityDropout(task), batch_of(task)
    batch = batch._replace(available=batch.mask)
    method.data_preprocessor.augment = lambda b: b._replace(
        inputs={name: x + 1 for name, x in b.inputs.items()}
    )
    found = method.data_preprocessor(batch, True)
    for column, name in enumerate(task.names):
        there = batch.available[:, column]
        assert not found.inputs[name][~there].any()
        assert torch.equal(found.inputs[name][there], batch.inputs[name][there] + 1)
    assert method.data_preprocessor(batch, False).inputs['rgb'].equal(batch.inputs['rgb'])


@pytest.mark.parametrize('kind', ['vectors', 'rooms'])
def test_class_weights_weigh_the_task_loss(kind):
    task = TASKS[kind]
    weights = tuple(float(k + 1) for k in range(len(task.classes)))
    method = ModalityDropout(dataclasses.replace(task, class_weights=weights, loss='ce'))
    batch, rng = batch_of(task), np.random.default_rng(0)
    shape = (len(batch.target), len(weights), *batch.target.shape[1:])
    logits = rng.standard_normal(shape)
    target = batch.target.numpy().copy()
    target.reshape(-1)[0] = IGNORE if kind == 'rooms' else target.reshape(-1)[0]
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    total = weight = 0.0
    for place in np.ndindex(target.shape):
        k = target[place]
        if k != IGNORE:
            total -= weights[k] * log_p[(place[0], k, *place[1:])]
            weight += weights[k]
    found = method.task_loss(torch.from_numpy(logits), torch.from_numpy(target))
    assert found.item() == pytest.approx(total / weight, rel=1e-5)
    assert not [k for k in method.state_dict() if 'class_weights' in k]


@pytest.mark.parametrize(('kind', 'usual'), [('rooms', 'ce_dice'), ('faces', '')])
def test_segmentation_has_one_task_loss_for_all_methods_which_the_protocol_records(
    kind, usual, tmp_path
):
    data = Toy(TASKS[kind])
    data.spec = data.name
    for given in ({}, {'loss': 'ce'}):
        protocol = protocol_for(data, given, 'cpu')
        expected = given.get('loss', usual) if kind == 'rooms' else ''
        assert protocol.loss == protocol.recorded().get('loss', '') == expected
        for name in ('modality_dropout', 'rfnet'):
            e = experiment(Spec(name), data, protocol, 0, tmp_path)
            assert building.build(e, 'cpu').task.loss == expected
    told = words(protocol_for(data, {}, 'cpu').recorded())
    assert ('task loss ce_dice' in told) == (kind == 'rooms')


def test_a_loss_that_the_task_cannot_have_is_told():
    with pytest.raises(UserError, match="unknown loss in classification 'ce_dice'"):
        Protocol.build({}, {'loss': 'ce_dice'}, 'cpu', 'classification')
    with pytest.raises(UserError, match="did you mean 'ce_dice'"):
        Protocol.build({}, {'loss': 'ce-dice'}, 'cpu', 'segmentation')


@pytest.mark.parametrize('momentum', [0.0, 0.9])
def test_weights_may_get_their_first_gradient_late(momentum):
    """As those of a term of the loss that starts after some epochs."""
    layers = torch.nn.ModuleList(torch.nn.Linear(2, 1) for _ in range(2))
    protocol = Protocol.build({}, {'optimizer': 'SGD', 'momentum': momentum, 'clip': 0}, 'cpu')
    wrapper = build_optim_wrapper(layers, training.optim_wrapper(protocol))
    before = layers[1].weight.detach().clone()
    for epoch in range(3):
        used = layers if epoch else layers[:1]
        wrapper.update_params(sum(layer(torch.ones(4, 2)).sum() for layer in used))
    assert not torch.equal(layers[1].weight, before)
