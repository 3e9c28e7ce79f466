"""π0 and π0.5 from transformers' own modules: SigLIP and Gemma encode the prefix, a Gemma expert reads its keys and
values.

Axes: B batch, C cameras, P prefix tokens (image patches of each camera, then the instruction), L text tokens, N layers,
G key/value heads, E head width, H horizon, D action numbers, S state numbers, W widths.
Time: this adapter is the one place where time turns round. Outside, τ = 0 is noise and v = A − ε; the π0 networks were
defined with t = 1 − τ and predict ε − A.

The modules and their parameter names are transformers'; the forward pass is ours, because transformers' one mutates its
cache on each call, hides the expert's features, has no entry for a cached prefix and knows no π0.5 (parity is tested).
"""

from types import MethodType
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PI0Config, PI0ForConditionalGeneration

from pirl_core.params.sizes import Size
from pirl_core.policy.context import Context, DataSizes, Inputs
from pirl_core.policy.families.pi0.gemma import (
    AdaptiveNorm,
    decoder_layer,
    grouped_mask,
    normalized,
    rotary_embedding,
    time_embedding,
)
from pirl_core.policy.images import Resize
from pirl_core.policy.layers import Run, plain
from pirl_core.policy.stem import ConvStem


class Pi0Shape(NamedTuple):
    """Sizes of a π0 or a π0.5 (``pi05``). The expert is as deep as the VLM and has its heads. ``patch``: pixels.

    ``stem``: patch is SigLIP's own patch embedding; conv is four strided convolutions modulated by the instruction,
    without which a model this small does not learn from scratch which object a word means.
    """

    image_size: int
    cameras: int
    vocabulary: int
    text_length: int
    state_dim: int
    action_dim: int
    horizon: int
    vlm_width: int
    vlm_layers: int
    vlm_mlp: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    vision_mlp: int
    patch: int
    expert_width: int
    expert_mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    pi05: bool
    stem: Literal["patch", "conv"]

    @property
    def family(self) -> str:
        return "pi05" if self.pi05 else "pi0"


def small_shape(
    data: DataSizes,
    vlm_width: int,
    vlm_layers: int,
    vision_width: int,
    vision_layers: int,
    expert_width: int,
    heads: int,
    head_dim: int,
    pi05: bool = False,
) -> Pi0Shape:
    """A model to train from scratch: MLPs twice as wide as their network, one key/value head as in Gemma-2B, vision
    heads of 32, patches of 16 pixels through the convolutional stem."""
    return Pi0Shape(
        **data._asdict(),
        vlm_width=vlm_width,
        vlm_layers=vlm_layers,
        vlm_mlp=2 * vlm_width,
        vision_width=vision_width,
        vision_layers=vision_layers,
        vision_heads=max(1, vision_width // 32),
        vision_mlp=2 * vision_width,
        patch=16,
        expert_width=expert_width,
        expert_mlp=2 * expert_width,
        heads=heads,
        kv_heads=1,
        head_dim=head_dim,
        pi05=pi05,
        stem="conv",
    )


# Widths and depths of VLM, vision tower and expert; heads and their width.
SMALL = {
    "nano": (32, 2, 32, 1, 32, 2, 16),
    "tiny": (96, 3, 96, 2, 96, 4, 32),
    "S": (128, 4, 96, 3, 96, 4, 32),
    "M": (224, 6, 128, 4, 144, 6, 32),
    "L": (320, 8, 192, 6, 192, 8, 32),
}


def pi0_shape(size: Size, data: DataSizes, pi05: bool) -> Pi0Shape:
    """nano, tiny, S, M and L: to train from scratch. full: PaliGemma-3B with the 300M expert, as published."""
    if size != "full":
        return small_shape(data, *SMALL[size], pi05)
    return Pi0Shape(
        **data._asdict(),
        vlm_width=2048,
        vlm_layers=18,
        vlm_mlp=16384,
        vision_width=1152,
        vision_layers=27,
        vision_heads=16,
        vision_mlp=4304,
        patch=14,
        expert_width=1024,
        expert_mlp=4096,
        heads=8,
        kv_heads=1,
        head_dim=256,
        pi05=pi05,
        stem="patch",
    )


def pi0_config(shape: Pi0Shape) -> PI0Config:
    """transformers' configuration of these sizes; the image token lies outside the vocabulary."""

    def gemma(width: int, mlp: int) -> dict[str, str | int]:
        return {
            "model_type": "gemma",
            "hidden_size": width,
            "num_hidden_layers": shape.vlm_layers,
            "intermediate_size": mlp,
            "vocab_size": shape.vocabulary,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head_dim,
        }

    return PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "text_config": gemma(shape.vlm_width, shape.vlm_mlp),
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": shape.vision_width,
                "intermediate_size": shape.vision_mlp,
                "patch_size": shape.patch,
                "image_size": shape.image_size,
                "num_hidden_layers": shape.vision_layers,
                "num_attention_heads": shape.vision_heads,
                "vision_use_head": False,
            },
            "projection_dim": shape.vlm_width,
            "image_token_id": shape.vocabulary,
        },
        dit_config=gemma(shape.expert_width, shape.expert_mlp),
        chunk_size=shape.horizon,
        max_state_dim=shape.state_dim,
        max_action_dim=shape.action_dim,
    )


class Pi05Embedding(nn.Module):
    """How π0.5's expert takes actions and time: a projection of the one, an MLP on the other."""

    def __init__(self, width: int, action_dim: int) -> None:
        super().__init__()
        self.action_in_proj = nn.Linear(action_dim, width)
        self.time_mlp_in = nn.Linear(width, width)
        self.time_mlp_out = nn.Linear(width, width)


# Camera slots of the official networks, and what the official code adds to the score of a pair that must not attend.
CAMERA_SLOTS = 3
IMPOSSIBLE = -2.3819763e38


class Pi0(nn.Module):
    """The backbone: ``encode`` an observation once, then ask for the ``velocity`` as often as needed.

    π0 has a token for the state; π0.5 does not read ``Inputs.state``: where it is to see it, the prompt tells it.
    ``run_layer``: how layers run; see ``layers``.
    ``pool_padding``: ``Context.pooled`` is the official code's, see ``encode``.
    Weights may be of any float dtype; inputs are cast to it.
    """

    resize: Resize = "openpi"

    def __init__(self, shape: Pi0Shape) -> None:
        super().__init__()
        self.shape = shape
        self.run_layer: Run = plain
        self.pool_padding = False
        self.pi0 = PI0ForConditionalGeneration(pi0_config(shape))
        expert = self.pi0.model.dit
        # The expert is fed embeddings only.
        expert.embed_tokens = None
        self.stem: ConvStem | None = None
        if shape.stem == "conv":
            self.stem = ConvStem(shape.vision_width, shape.vlm_width)
            self.vlm.vision_tower.embeddings.patch_embedding = None
        if shape.pi05:
            self.pi0.embed_action_time = Pi05Embedding(shape.expert_width, shape.action_dim)
            eps = expert.norm.eps
            expert.norm = AdaptiveNorm(shape.expert_width, eps)
            for layer in expert.layers:
                layer.input_layernorm = AdaptiveNorm(shape.expert_width, eps)
                layer.post_attention_layernorm = AdaptiveNorm(shape.expert_width, eps)
        # Blocks run through their own forward, so that hooks on them (FSDP's) see it.
        for layer in (*self.vlm.language_model.layers, *expert.layers):
            layer.forward = MethodType(decoder_layer, layer)
        # What transformers keeps in buffers is computed anew at each call: see ``gemma``.
        for module in self.modules():
            for name in [name for name, _ in module.named_buffers(recurse=False)]:
                delattr(module, name)

    @property
    def vlm(self) -> Any:  # transformers' modules are reached by attribute, which nn.Module's types hide
        return self.pi0.model.vlm

    @property
    def _shared(self) -> int:
        """Heads that read the same keys."""
        return self.shape.heads // self.shape.kv_heads

    @property
    def vlm_modules(self) -> list[nn.Module]:
        """What RL keeps frozen."""
        return [self.vlm] if self.stem is None else [self.vlm, self.stem]

    @property
    def context_width(self) -> int:
        """Width of ``pooled`` and state together, what a critic after the VLM reads."""
        return self.shape.vlm_width + self.shape.state_dim

    def freeze_vlm(self) -> None:
        """RL trains the expert alone (App. B.2)."""
        for module in self.vlm_modules:
            module.requires_grad_(False)

    def encode(self, inputs: Inputs) -> Context:
        """Run the VLM once. memory: (B, N, 2, G, P, E), the keys and values of each layer.

        pooled: mean over the image tokens and the words. With ``pool_padding``, over the image tokens and all slots of
        a prompt padded to ``text_length``, as the official critic has it. What such a slot holds is an artefact: none
        of its scores is allowed, and a softmax over equally impossible ones is the mean over all tokens, those of
        absent cameras (three slots, black where empty) included. So these are run too, and then left out of memory.
        """
        language = self.vlm.language_model
        table = language.embed_tokens
        cameras, absent = inputs.images.shape[1], 0
        if self.pool_padding:
            absent = max(0, CAMERA_SLOTS - cameras)
            inputs = _padded(inputs, absent, self.shape.text_length, self.shape.image_size)
        text = F.embedding(inputs.tokens, table.weight) * table.scalar_embed_scale
        pieces = [text]
        if inputs.images.shape[1]:
            pieces.insert(0, self._embed_images(inputs.images, text, inputs.tokens_valid))
        x = torch.cat(pieces, 1).to(text.dtype)
        image_tokens = x.shape[1] - text.shape[1]
        seen = image_tokens * cameras // max(1, cameras + absent)
        here = torch.arange(image_tokens, device=x.device) < seen
        valid = torch.cat([here.expand(len(x), -1), inputs.tokens_valid], 1)
        rotary = rotary_embedding(valid.long().cumsum(1) - 1, self.shape.head_dim, x.dtype)
        allowed = valid[:, None, None, :]
        if self.pool_padding:
            mask = grouped_mask(allowed & valid[:, None, :, None], self._shared, x.dtype, IMPOSSIBLE)
        else:
            mask = grouped_mask(allowed, self._shared, x.dtype)
        memory = []
        for layer in language.layers:
            x, key, value = self.run_layer(layer, x, rotary, mask)
            pair = torch.stack([key, value], 1)
            memory.append(torch.cat([pair[:, :, :, :seen], pair[:, :, :, image_tokens:]], 3) if absent else pair)
        x = language.norm(x).float()
        if self.pool_padding:
            x, valid = (torch.cat([part[:, :seen], part[:, image_tokens:]], 1) for part in (x, valid))
        counted = torch.ones_like(valid) if self.pool_padding else valid
        pooled = (x * counted[..., None]).sum(1) / counted.sum(1, keepdim=True)
        return Context(torch.stack(memory, 1), valid, pooled, inputs.state)

    def velocity(self, context: Context, x: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
        """v = A − ε (B, H, D) at the noisy actions x (B, H, D) and times tau (B,), and the features (B, H, W)."""
        suffix, condition = self._embed_suffix(context.state, x, 1 - tau.double())
        count, length = suffix.shape[:2]
        prefix = context.valid[:, None, None, :].expand(-1, 1, length, -1)
        own = torch.ones(length, length, dtype=torch.bool, device=x.device)
        # A state token does not see the actions; they see it and each other.
        own[: length - self.shape.horizon, length - self.shape.horizon :] = False
        mask = grouped_mask(torch.cat([prefix, own.expand(count, 1, -1, -1)], -1), self._shared, suffix.dtype)
        expert = self.pi0.model.dit
        positions = context.valid.sum(1, keepdim=True) + torch.arange(length, device=x.device)
        rotary = rotary_embedding(positions, self.shape.head_dim, suffix.dtype)
        for index, layer in enumerate(expert.layers):
            suffix, _, _ = self.run_layer(layer, suffix, rotary, mask, context.memory[:, index], condition)
        features = normalized(expert.norm, suffix, condition)[0][:, -self.shape.horizon :]
        return -self.pi0.action_out_proj(features), features

    def _embed_suffix(self, state: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """The expert's tokens (B, 1 + H, W) of π0; or those of π0.5 (B, H, W) and the condition of its norms (B, W)."""
        embed = self.pi0.embed_action_time
        dtype = embed.action_in_proj.weight.dtype
        time = time_embedding(t, self.shape.expert_width).to(dtype)
        actions = embed.action_in_proj(x.to(dtype))
        if self.shape.pi05:
            return actions, F.silu(embed.time_mlp_out(F.silu(embed.time_mlp_in(time))))
        both = torch.cat([actions, time[:, None].expand_as(actions).to(actions.dtype)], 2)
        actions = embed.action_time_mlp_out(F.silu(embed.action_time_mlp_in(both)))
        return torch.cat([embed.state_proj(state.to(dtype))[:, None], actions], 1), None

    def _embed_images(self, images: Tensor, text: Tensor, text_valid: Tensor) -> Tensor:
        """(B, C, 3, s, s) → (B, C·patches, W)."""
        count, cameras = images.shape[:2]
        tower = self.vlm.vision_tower
        places = tower.embeddings.position_embedding.weight
        flat = images.flatten(0, 1).to(places.dtype)
        if self.stem is None:
            patches = tower.embeddings.patch_embedding(flat).flatten(2).transpose(1, 2)
        else:
            meaning = (text * text_valid[..., None]).sum(1) / text_valid.sum(1, keepdim=True)
            patches = self.stem(flat, meaning.repeat_interleave(cameras, 0))
        hidden = patches + places
        for layer in tower.encoder.layers:
            hidden = self.run_layer(layer, hidden, None)
        projected: Tensor = self.vlm.multi_modal_projector(tower.post_layernorm(hidden))
        return projected.reshape(count, -1, text.shape[-1])


def _padded(inputs: Inputs, cameras: int, length: int, size: int) -> Inputs:
    """With so many black ``cameras`` behind the present ones, and prompts of ``length`` tokens, of id 0 where empty."""
    black = inputs.images.new_full((len(inputs.tokens), cameras, 3, size, size), -1)
    images = torch.cat([inputs.images, black], 1) if inputs.images.shape[1] else black
    more = length - inputs.tokens.shape[1]
    return inputs._replace(
        images=images, tokens=F.pad(inputs.tokens, (0, more)), tokens_valid=F.pad(inputs.tokens_valid, (0, more))
    )
