"""π0 from transformers' own modules: SigLIP and Gemma encode the prefix, a Gemma expert reads its keys and values.

Axes: B batch, C cameras, P prefix tokens (image patches of each camera, then the instruction), L text tokens, N layers,
G key/value heads, E head width, H horizon, D action numbers, S state numbers, W widths.
Time: this adapter is the one place where time turns round. Outside, τ = 0 is noise and v = A − ε; the π0 network was
defined with t = 1 − τ and predicts ε − A.

The modules and their parameter names are transformers'; the forward pass is ours, because transformers' one mutates its
cache on each call, hides the expert's features and has no entry for a cached prefix (parity is tested).
"""

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PI0Config, PI0ForConditionalGeneration
from transformers.models.gemma.modeling_gemma import GemmaDecoderLayer, apply_rotary_pos_emb

from pirl_core.policy.context import Context, Inputs
from pirl_core.policy.stem import ConvStem


class Pi0Shape(NamedTuple):
    """Sizes of a π0. ``stem``: patch is SigLIP's own patch embedding; conv is four strided convolutions modulated by
    the instruction, without which a model this small does not learn from scratch which object a word means."""

    image_size: int
    cameras: int
    vocabulary: int
    text_length: int
    state_dim: int
    action_dim: int
    horizon: int
    vlm_width: int
    vlm_layers: int
    vision_width: int
    vision_layers: int
    expert_width: int
    heads: int
    head_dim: int
    stem: Literal["patch", "conv"]


PATCH = 16


def pi0_config(shape: Pi0Shape) -> PI0Config:
    """transformers' configuration of these sizes; the image token lies outside the vocabulary."""
    attention = {"num_attention_heads": shape.heads, "num_key_value_heads": 1, "head_dim": shape.head_dim}
    return PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "text_config": {
                "model_type": "gemma",
                "hidden_size": shape.vlm_width,
                "num_hidden_layers": shape.vlm_layers,
                "intermediate_size": 2 * shape.vlm_width,
                "vocab_size": shape.vocabulary,
                **attention,
            },
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": shape.vision_width,
                "intermediate_size": 2 * shape.vision_width,
                "patch_size": PATCH,
                "image_size": shape.image_size,
                "num_hidden_layers": shape.vision_layers,
                "num_attention_heads": max(1, shape.vision_width // 32),
                "vision_use_head": False,
            },
            "projection_dim": shape.vlm_width,
            "image_token_id": shape.vocabulary,
        },
        dit_config={
            "model_type": "gemma",
            "hidden_size": shape.expert_width,
            "num_hidden_layers": shape.vlm_layers,
            "intermediate_size": 2 * shape.expert_width,
            "vocab_size": shape.vocabulary,
            **attention,
        },
        chunk_size=shape.horizon,
        max_state_dim=shape.state_dim,
        max_action_dim=shape.action_dim,
    )


class Pi0(nn.Module):
    """The backbone: ``encode`` an observation once, then ask for the ``velocity`` as often as needed."""

    def __init__(self, shape: Pi0Shape) -> None:
        super().__init__()
        self.shape = shape
        self.pi0 = PI0ForConditionalGeneration(pi0_config(shape))
        # The expert is fed embeddings only.
        self.pi0.model.dit.embed_tokens = None
        self.stem: ConvStem | None = None
        if shape.stem == "conv":
            self.stem = ConvStem(shape.vision_width, shape.vlm_width)
            self.vlm.vision_tower.embeddings.patch_embedding = None

    @property
    def vlm(self) -> Any:  # transformers' modules are reached by attribute, which nn.Module's types hide
        return self.pi0.model.vlm

    @property
    def context_width(self) -> int:
        """Width of ``pooled`` and state together, what a critic after the VLM reads."""
        return self.shape.vlm_width + self.shape.state_dim

    def freeze_vlm(self) -> None:
        """RL trains the expert alone (App. B.2)."""
        for module in (self.vlm, self.stem):
            if module is not None:
                module.requires_grad_(False)

    def encode(self, inputs: Inputs) -> Context:
        """Run the VLM once. memory: (B, N, 2, G, P, E), the keys and values of each layer."""
        text = self.vlm.get_input_embeddings()(inputs.tokens)
        pieces = [text]
        if inputs.images.shape[1]:
            pieces.insert(0, self._embed_images(inputs.images, text, inputs.tokens_valid))
        x = torch.cat(pieces, 1).to(text.dtype)
        image_tokens = x.shape[1] - text.shape[1]
        valid = torch.cat([inputs.tokens_valid.new_ones(len(x), image_tokens), inputs.tokens_valid], 1)
        language = self.vlm.language_model
        rotary = language.rotary_emb(x, valid.long().cumsum(1) - 1)
        memory = []
        for layer in language.layers:
            x, key, value = _decoder_layer(layer, x, rotary, valid[:, None, None, :], None)
            memory.append(torch.stack([key, value], 1))
        x = language.norm(x).float()
        pooled = (x * valid[..., None]).sum(1) / valid.sum(1, keepdim=True)
        return Context(torch.stack(memory, 1), valid, pooled, inputs.state)

    def velocity(self, context: Context, x: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
        """v = A − ε (B, H, D) at the noisy actions x (B, H, D) and times tau (B,), and the features (B, H, W)."""
        suffix = self.pi0.embed_action_time(context.state, x, 1 - tau)
        count, length = suffix.shape[:2]
        prefix = context.valid[:, None, None, :].expand(-1, 1, length, -1)
        # The state token does not see the actions; they see it and each other.
        own = torch.ones(length, length, dtype=torch.bool, device=x.device)
        own[0, 1:] = False
        mask = torch.cat([prefix, own.expand(count, 1, -1, -1)], -1)
        expert = self.pi0.model.dit
        positions = context.valid.sum(1, keepdim=True) + torch.arange(length, device=x.device)
        rotary = expert.rotary_emb(suffix, positions)
        for index, layer in enumerate(expert.layers):
            suffix, _, _ = _decoder_layer(layer, suffix, rotary, mask, context.memory[:, index])
        features = expert.norm(suffix)[:, 1:]
        return -self.pi0.action_out_proj(features), features

    def _embed_images(self, images: Tensor, text: Tensor, text_valid: Tensor) -> Tensor:
        """(B, C, 3, s, s) → (B, C·patches, W)."""
        count, cameras = images.shape[:2]
        flat = images.flatten(0, 1)
        tower = self.vlm.vision_tower
        if self.stem is None:
            patches = tower.embeddings(flat)
        else:
            meaning = (text * text_valid[..., None]).sum(1) / text_valid.sum(1, keepdim=True)
            patches = self.stem(flat, meaning.repeat_interleave(cameras, 0))
            patches = patches + tower.embeddings.position_embedding.weight
        hidden = tower.post_layernorm(tower.encoder(inputs_embeds=patches).last_hidden_state)
        projected: Tensor = self.vlm.multi_modal_projector(hidden)
        return projected.reshape(count, -1, text.shape[-1])


def _decoder_layer(
    layer: GemmaDecoderLayer,
    x: Tensor,
    rotary: tuple[Tensor, Tensor],
    mask: Tensor,
    cached: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One Gemma layer on x (B, T, W), attending to ``cached`` (B, 2, G, P, E) and its own keys and values.

    Returns the output and the layer's own keys and values.
    """
    attention = layer.self_attn
    h = layer.input_layernorm(x)
    query, key, value = (
        projection(h).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    query, key = apply_rotary_pos_emb(query, key, *rotary)
    all_keys, all_values = key, value
    if cached is not None:
        all_keys = torch.cat([cached[:, 0].to(key.dtype), key], 2)
        all_values = torch.cat([cached[:, 1].to(value.dtype), value], 2)
    mixed = F.scaled_dot_product_attention(
        query, all_keys, all_values, attn_mask=mask, scale=attention.scaling, enable_gqa=True
    )
    x = x + attention.o_proj(mixed.transpose(1, 2).flatten(2))
    return x + layer.mlp(layer.post_attention_layernorm(x)), key, value
