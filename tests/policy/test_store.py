"""The context store: budgets are kept, and where a context lies changes nothing that is computed from it."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from hypothesis import given, settings
from hypothesis import strategies as st

from pirl_core.policy.context import Context, Inputs
from pirl_core.policy.flow_policy import FlowPolicy, keyed_normals
from pirl_core.rl.collect import Rollout, Samples, Share, context_metrics
from pirl_core.rl.rollout import take
from pirl_core.rl.store import GIB, ContextStore, Fill
from pirl_core.rl.train import noise_at, parameter_groups, process_of
from pirl_core.rl.update import update
from pirl_core.training.learner import Learner
from pirl_core.types import Observation
from tests.policy.test_families import FAMILIES, make
from tests.rl.test_rl import rl_params
from tests.worlds import random_observation, small_policy

CPU = torch.device("cpu")
ROWS = 24


def ready(**changes) -> FlowPolicy:
    """A policy as ``train_rl`` prepares it."""
    policy = small_policy()
    policy.backbone.freeze_vlm()
    policy.add_heads(process_of(rl_params(**changes)), 1, changes.get("noise_rule") == "learned")
    return policy


def even(policy: FlowPolicy, count: int) -> Observation:
    """Observations whose prompts, and so contexts, are of one length."""
    observation = random_observation(policy, count)
    return observation._replace(instructions=observation.instructions[:1] * count)


def size(policy: FlowPolicy) -> int:
    """Bytes of one row's context."""
    with torch.no_grad():
        return sum(part.nbytes for part in policy.encode(even(policy, 1)))


def filled(policy: FlowPolicy, device_rows: float, host_rows: float, arrivals: tuple[int, ...] = (10, 10, 4)):
    """A store whose budgets hold so many rows, after these arrivals in turn; and all that came."""
    observation = even(policy, sum(arrivals))
    store = ContextStore(policy.encode, CPU, device_rows * size(policy) / GIB, host_rows * size(policy) / GIB)
    for start, stop in pairwise([0, *np.cumsum(arrivals)]):
        with torch.no_grad():
            part = take(observation, np.arange(start, stop))
            store.add(part, policy.encode(part))
    return store, observation


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 9), st.floats(0, 9), st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 2**31))
def test_rows_fill_the_budgets_in_order_of_arrival(device, host, arrivals, seed):
    """Whatever the order of the batches asked for: each row is its own observation's context."""
    policy = small_policy(image_size=16, vlm_layers=1)
    store, observation = filled(policy, device, host, tuple(arrivals))
    count = sum(arrivals)
    on_device = min(count, int(device))
    on_host = min(count - on_device, int(host))
    assert store.fill == Fill(size(policy), on_device, on_host, count - on_device - on_host)
    kept = [isinstance(row, Context) for row in store._rows]
    assert kept == [index < on_device + on_host for index in range(count)]

    rng = np.random.default_rng(seed)
    order = rng.permutation(count)
    store.sort(order.tolist())
    chosen = [rng.integers(0, count, rng.integers(1, 6)) for _ in range(3)]
    with torch.no_grad():
        whole = policy.encode(take(observation, order))
        found = list(store.batches(chosen))
    assert len(found) == 3
    for rows, context in zip(chosen, found, strict=True):
        for part, expected in zip(context, whole, strict=True):
            torch.testing.assert_close(part, expected[rows], atol=1e-5, rtol=1e-5)


def test_a_part_of_an_arrival_does_not_hold_the_rest_in_memory():
    store, _ = filled(small_policy(), 3, 4, (10, 10))
    blocks = {row.memory.untyped_storage().data_ptr(): row.memory.untyped_storage().nbytes() for row in store._rows[:7]}
    assert sum(blocks.values()) == 7 * store._rows[0].memory.nbytes
    assert all(row.images.base is None for row in store._rows[7:])


def updated(policy: FlowPolicy, store: ContextStore, observation, **changes):
    """The parameters' movement in one update of some minibatches, its metrics, and the first gradients."""
    AcceleratorState._reset_state(reset_partial_state=True)
    rl = rl_params(minibatch_size=10, update_epochs=2, actor_lr=1e-3, **changes)
    process, noise = process_of(rl), noise_at(rl, 0)
    start = {name: value.clone() for name, value in policy.state_dict().items()}
    with torch.no_grad():
        normals = keyed_normals(
            "chunk", [(row,) for row in range(ROWS)], (policy.denoise_steps + 1, *policy.chunk_shape)
        )
        made = policy.decide(policy.encode(observation), normals, torch.linspace(0, 0.99, ROWS), noise, process)
    target = torch.linspace(-1, 1, ROWS)
    # Not the present log-probabilities: at ratio 1 a mistake could cancel.
    samples = Samples(made.states, made.stochastic, made.log_prob - 0.1, made.value, target, target)
    # Plain gradient steps: Adam makes steps of what is nothing but rounding.
    learner = Learner(policy, parameter_groups(policy, rl), 0.0, 1e9, rl.precision, 0)
    learner.optimizer.optimizer = torch.optim.SGD(parameter_groups(policy, rl))
    share = Share(np.zeros(ROWS, int), np.arange(ROWS))
    rng = np.random.default_rng(0)
    metrics = update(learner, Rollout(store, samples), share, noise, process, rl, rng, False, 0)
    return {name: value - start[name] for name, value in policy.state_dict().items()}, metrics


METHODS: dict[str, dict[str, Any]] = {
    "flow_sde": {},
    "flow_noise": {"noise_rule": "learned", "mdp": "one_layer", "entropy_coef": 0.005, "critic": "expert"},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("micro", [None, 3])
@pytest.mark.parametrize("rows", [(0, ROWS), (0, 0), (7, 5), (7, 30)])
def test_an_update_is_the_same_wherever_the_contexts_lie(method, micro, rows):
    """And however its minibatches are cut. All on the device and in one part, against host, recomputed and mixed."""
    torch.set_num_threads(1)
    changes = METHODS[method]
    policy = ready(**changes)
    step, told = updated(policy, *filled(policy, ROWS, 0), **changes)
    policy = ready(**changes)
    store, observation = filled(policy, *rows)
    other, also = updated(policy, store, observation, micro_batch_size=micro, **changes)
    assert max(value.abs().max() for value in step.values()) > 1e-4
    for name, value in step.items():
        assert (other[name] - value).abs().max() <= 1e-6, name
    # The ratio is the exponential of a sum of log-densities, whose rounding it shows enlarged.
    assert also.pop("losses/first_ratio_error") == pytest.approx(told.pop("losses/first_ratio_error"), abs=1e-5)
    # The KL exponentiates log-ratios, and so their rounding.
    assert also == pytest.approx(told, rel=3e-5, abs=1e-6)
    assert told["charts/updates"] == 6


def test_contexts_of_unequal_length_are_padded_to_the_longest():
    """What the expert makes of a padded context, and its gradient, is what it makes of the context alone."""
    policy = ready()
    inputs = policy.inputs(random_observation(policy, 3))
    observation = random_observation(policy, 3)
    store = ContextStore(policy.encode, CPU, 1, 0)
    alone = []
    with torch.no_grad():
        for row in range(3):
            length = int(inputs.tokens_valid[row].sum())
            single = Inputs(*(part[row : row + 1] for part in inputs))
            short = single._replace(tokens=single.tokens[:, :length], tokens_valid=single.tokens_valid[:, :length])
            alone.append(policy.backbone.encode(short))
            store.add(take(observation, np.array([row])), alone[-1])
    assert len({context.valid.shape[1] for context in alone}) > 1
    (joined,) = store.batches([np.arange(3)])
    assert isinstance(joined, Context)
    assert joined.valid.sum(1).tolist() == [int(context.valid.sum()) for context in alone]
    x, tau = torch.randn(3, *policy.chunk_shape), torch.rand(3)
    together, _ = policy.backbone.velocity(joined, x, tau)
    parts = [policy.backbone.velocity(alone[i], x[i : i + 1], tau[i : i + 1])[0] for i in range(3)]
    apart = torch.cat(parts)
    torch.testing.assert_close(together, apart, atol=1e-6, rtol=1e-6)
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    for one, two in zip(
        torch.autograd.grad(together.square().sum(), trained, allow_unused=True),
        torch.autograd.grad(apart.square().sum(), trained, allow_unused=True),
        strict=True,
    ):
        assert (one is None) == (two is None)
        if one is not None:
            torch.testing.assert_close(one, two, atol=1e-5 * max(1.0, two.abs().max().item()), rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_contexts_can_be_stored_padded_and_recomputed(family: str):
    """Prompts of unequal length arrive one by one: device, host and recomputed rows together act as encoded at once."""
    policy = make(family)
    observation = random_observation(policy, 6)
    with torch.no_grad():
        contexts = [policy.encode(take(observation, np.array([row]))) for row in range(6)]
        sizes = [sum(part.nbytes for part in context) for context in contexts]
        store = ContextStore(policy.encode, CPU, sum(sizes[:2]) / GIB, sum(sizes[2:4]) / GIB)
        for row, context in enumerate(contexts):
            store.add(take(observation, np.array([row])), context)
        rows = np.array([5, 0, 3, 2, 4, 1])
        (joined,) = store.batches([rows])
        whole = policy.encode(take(observation, rows))
        assert isinstance(joined, Context)
        assert store.fill.recomputed < 4
        normals = keyed_normals("chunk", [(row,) for row in range(6)], policy.chunk_shape)
        tau = torch.linspace(0, 0.9, 6)
        one, two = (policy.backbone.velocity(context, normals, tau)[0] for context in (joined, whole))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(joined.pooled, whole.pooled, atol=1e-5, rtol=1e-5)


def test_metrics_add_up_over_the_ranks():
    metrics = context_metrics([Fill(2**19, 3, 2, 0), Fill(2**19, 3, 2, 1)])
    assert list(metrics.values()) == [0.5, 6, 4, 1]
