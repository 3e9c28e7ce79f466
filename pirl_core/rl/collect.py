"""One iteration's experience, as the numbers the update needs and nothing else.

Axes: N decisions of all episodes, flat and in order, K denoising steps, H horizon, D action numbers,
L log-probabilities a decision.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pirl_core.flow.chain import Noise
from pirl_core.params.sections import Rl
from pirl_core.policy.context import Context
from pirl_core.policy.flow_policy import Decision, FlowPolicy, Process, keyed_normals, keyed_uniforms
from pirl_core.rl.advantages import RewardScale, gae, group_advantage
from pirl_core.rl.losses import explained_variance
from pirl_core.rl.rollout import ChunkEnv, Step, play
from pirl_core.rl.store import ContextStore, Fill
from pirl_core.training.ranks import gathered, join
from pirl_core.types import Episode, Observation


class Samples(NamedTuple):
    """Decisions. states (N, K+1, H, D), stochastic (N, K), log_prob (N, L), value, advantage, target (N,)."""

    states: Tensor
    stochastic: Tensor
    log_prob: Tensor
    value: Tensor
    advantage: Tensor
    target: Tensor


class Rollout(NamedTuple):
    """This rank's N decisions, and the contexts that they were taken in."""

    contexts: ContextStore
    samples: Samples


class Share(NamedTuple):
    """Where this rank's decisions stand among those of all ranks.

    owner: (N of all ranks,) the rank that has each. position: (the same,) its row here, −1 where another rank has it.
    """

    owner: np.ndarray
    position: np.ndarray


def collect(
    policy: FlowPolicy,
    envs: ChunkEnv,
    episodes: list[Episode],
    noise: Noise,
    process: Process,
    rl: Rl,
    key: tuple[int, ...],
    scale: RewardScale | None = None,
) -> tuple[Rollout, Share, dict[str, float]]:
    """Play ``episodes`` with the stochastic policy; ranks share them. scale: of the rewards that count as advantage.

    Noise depends on ``key``, the episode and the decision alone. The metrics are those of all ranks.
    """
    here = join()
    mine = np.arange(here.rank, len(episodes), here.size)
    chain_shape = (policy.denoise_steps + 1, *policy.chunk_shape)
    device = policy.device
    order: list[tuple[int, int]] = []
    contexts = context_store(policy, rl)
    decisions: list[Decision] = []
    final_values: dict[int, float] = {}

    def choose(observation: Observation, episode: np.ndarray, decision: np.ndarray) -> tuple[Context, Decision]:
        keys = [(*key, int(e), int(d)) for e, d in zip(episode, decision, strict=True)]
        uniforms = keyed_uniforms("step", keys)
        context = policy.encode(observation)
        normals = keyed_normals("chain", keys, chain_shape).to(device)
        return context, policy.decide(context, normals, uniforms.to(device), noise, process)

    def decide(observation: Observation, row: np.ndarray, decision: np.ndarray) -> np.ndarray:
        episode = mine[row]
        context, choice = choose(observation, episode, decision)
        order.extend(zip(episode.tolist(), decision.tolist(), strict=True))
        contexts.add(observation, context)
        decisions.append(choice)
        return choice.actions.cpu().numpy()

    def at_time_limit(observation: Observation, row: np.ndarray, decision: np.ndarray) -> None:
        episode = mine[row]
        value = choose(observation, episode, decision + 1)[1].value
        final_values.update(zip(episode.tolist(), value.tolist(), strict=True))

    bootstrap = process.critic is not None and rl.bootstrap_at_time_limit
    with torch.no_grad():
        steps = play(envs, [episodes[index] for index in mine], decide, at_time_limit if bootstrap else None)
    steps = [step._replace(episode=int(mine[step.episode])) for step in steps]
    arrival = sorted(range(len(order)), key=order.__getitem__)
    contexts.sort(arrival)
    rank = torch.tensor(arrival, device=device)
    choice = Decision(*(torch.cat(parts)[rank] for parts in zip(*decisions, strict=True)))

    finals = [final_values.get(step.episode, 0.0) for step in steps]
    everyone = sorted(gathered(list(zip(steps, choice.value.tolist(), finals, [here.rank] * len(steps), strict=True))))
    all_steps = [row[0] for row in everyone]
    value = np.array([row[1] for row in everyone])
    paid = all_steps
    if scale is not None:
        last = np.array([step.terminated or step.truncated for step in all_steps])
        scaled = scale.scaled(np.array([step.reward for step in all_steps]), last)
        paid = [step._replace(reward=float(reward)) for step, reward in zip(all_steps, scaled, strict=True)]
    advantage, target = advantages(paid, value, np.array([row[2] for row in everyone]), len(episodes), rl)
    owner = np.array([row[3] for row in everyone])
    own = owner == here.rank
    samples = Samples(
        choice.states,
        choice.stochastic,
        choice.log_prob,
        choice.value,
        torch.from_numpy(advantage[own]).float().to(device),
        torch.from_numpy(target[own]).float().to(device),
    )
    metrics = statistics(all_steps, episodes) | {"losses/explained_variance": explained_variance(value, target)}
    metrics |= context_metrics(gathered([contexts.fill]))
    return Rollout(contexts, samples), Share(owner, np.where(own, own.cumsum() - 1, -1)), metrics


def context_store(policy: FlowPolicy, rl: Rl) -> ContextStore:
    """An empty store with this rank's budgets. Where the VLM learns it keeps observations alone, and gives inputs."""
    if rl.lora_rank:
        return ContextStore(policy.inputs, policy.device, 0, 0)
    return ContextStore(policy.encode, policy.device, rl.context_device_gib, rl.context_host_gib)


def context_metrics(fills: list[Fill]) -> dict[str, float]:
    """Size of the largest decision's context in MiB, and where the contexts of all ranks lie."""
    return {
        "charts/context_mib": max(fill.row_bytes for fill in fills) / 2**20,
        "charts/context_device_rows": float(sum(fill.device for fill in fills)),
        "charts/context_host_rows": float(sum(fill.host for fill in fills)),
        "charts/context_recomputed_rows": float(sum(fill.recomputed for fill in fills)),
    }


def advantages(
    steps: list[Step], value: np.ndarray, final_value: np.ndarray, episodes: int, rl: Rl
) -> tuple[np.ndarray, np.ndarray]:
    """Advantage and value target of every decision, both (N,). final_value: read where the time limit cut."""
    reward = np.array([step.reward for step in steps])
    episode = np.array([step.episode for step in steps])
    if rl.algorithm == "grpo":
        returns = np.bincount(episode, reward, episodes)
        advantage = group_advantage(returns, rl.group_size)[episode]
        return advantage, np.zeros_like(advantage)
    terminated = np.array([step.terminated for step in steps])
    last = terminated | np.array([step.truncated for step in steps])
    # A critic gone wild predicts what is no number; the update that follows is skipped, and tells it in one line.
    with np.errstate(invalid="ignore", over="ignore"):
        advantage = gae(reward, value, last, np.where(terminated, 0.0, final_value), rl.gamma, rl.gae_lambda)
        target = advantage + value
        if rl.normalize_advantages:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    return advantage, target


def statistics(steps: list[Step], episodes: list[Episode]) -> dict[str, float]:
    """Success and return of the stochastic policy, episode length in simulator steps, and their counts."""
    success = np.zeros(len(episodes))
    for step in steps:
        success[step.episode] = max(success[step.episode], float(step.terminated))
    simulated = sum(step.steps for step in steps)
    return {
        "charts/success": float(success.mean()),
        "charts/episodic_return": sum(step.reward for step in steps) / len(episodes),
        "charts/episodic_length": simulated / len(episodes),
        "charts/simulator_steps": float(simulated),
        "charts/decisions": float(len(steps)),
    }
