"""The policy that RL will train, on torch's meta device: it has shapes, and no memory. And how much it will do."""

from typing import TYPE_CHECKING

from pirl_core.params.file import Run

if TYPE_CHECKING:
    from pirl_core.policy.context import Inputs
    from pirl_core.policy.flow_policy import FlowPolicy


def model_of(section: Run) -> "FlowPolicy":
    """The policy as RL has it, critic and noise net included, on torch's meta device."""
    import torch

    from pirl_core.facts import facts_in
    from pirl_core.flow.noise import learns_std
    from pirl_core.policy.backbone import new_backbone, new_shape, published_sizes
    from pirl_core.policy.context import DataSizes
    from pirl_core.policy.flow_policy import FlowPolicy
    from pirl_core.policy.normalize import Affine, Normalization
    from pirl_core.policy.tokenizer import build_tokenizer
    from pirl_core.rl.train import process_of

    env, wish = section.env, section.policy
    _ = env.world  # raises UserError where there is none
    facts = facts_in(env)
    numbers, action_numbers = facts.state_dim(env.object_state), len(facts.action)
    tokenizer = build_tokenizer(facts.sentences(), wish.state_in_prompt)
    if wish.size == "full":
        data = published_sizes(wish.backbone, len(env.cameras), wish.horizon)
    else:
        words = 1 + max(len(tokenizer.encode(text).ids) for text in facts.sentences())
        words += numbers if wish.state_in_prompt else 0
        sizes = (tokenizer.get_vocab_size(), words, numbers, action_numbers, wish.horizon)
        data = DataSizes(env.image_size, len(env.cameras), *sizes)
    state, action = (Affine([0.0] * count, [1.0] * count) for count in (numbers, action_numbers))
    with torch.device("meta"):
        backbone = new_backbone(new_shape(wish.backbone, wish.size, data))
        policy = FlowPolicy(
            backbone, tokenizer, "words", Normalization(state, action, 0), wish.replan, wish.denoise_steps
        )
        policy.add_heads(process_of(section.rl), section.rl.critic_layers, learns_std(section.rl.noise_rule))
    return policy


def inputs_of(policy: "FlowPolicy", count: int) -> "Inputs":
    """Of so many observations, where the policy is."""
    import torch

    from pirl_core.policy.context import Inputs

    shape = policy.backbone.shape
    with next(policy.backbone.parameters()).device:
        return Inputs(
            torch.zeros(count, shape.cameras, 3, shape.image_size, shape.image_size),
            torch.zeros(count, shape.text_length, dtype=torch.long),
            torch.ones(count, shape.text_length, dtype=torch.bool),
            torch.zeros(count, shape.state_dim),
        )


def most_decisions(section: Run) -> int:
    """Of an episode of full length, a sequence's of all its subtasks."""
    from pirl_core.facts import facts_in

    tasks = facts_in(section.env).tasks
    steps = section.env.episode_steps * max(tasks[task].length for task in section.env.tasks)
    return -(-steps // section.policy.replan)


def evaluations_learned(section: Run) -> int:
    """Velocities that an update has in a decision: one where the chain has one stochastic step and the critic reads the
    VLM, else all."""
    rl = section.rl
    return 1 if rl.mdp == "hybrid" and rl.critic != "expert" else section.policy.denoise_steps
