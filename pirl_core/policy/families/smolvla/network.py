"""SmolVLA (arXiv 2506.01844) from transformers' own modules: SmolVLM2 cut to its lower layers encodes the prefix, an
expert of Llama layers reads its keys and values.

Axes: B batch, C cameras, P prefix tokens (image tokens of each camera, the instruction, one state token), L text
tokens, N layers, G key/value heads, E head width, H horizon, D action numbers, S state numbers, W widths.
Time: this adapter is the one place where time turns round. Outside, τ = 0 is noise and v = A − ε; the network was
defined with t = 1 − τ and predicts ε − A.

Image and text tokens see one another; the state token sees them and itself; none sees the actions. The expert is as
deep as the VLM. In its layers of even index the actions attend to the VLM's keys and values of that layer and,
causally, to one another; in those of odd index to the VLM's alone, which the layer maps by k_proj and v_proj of its
own. There the queries count their positions from 0, whereas the keys keep the rotation they have in the VLM.
Positions rotate with base 10⁴ throughout, though SmolVLM2 itself was trained with 10⁵: so was SmolVLA published.
"""

import math
from types import MethodType
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, SmolVLMConfig, SmolVLMModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from pirl_core.errors import UserError
from pirl_core.params.sizes import Size
from pirl_core.policy.context import Context, DataSizes, Inputs
from pirl_core.policy.families.pi0.gemma import (
    decoder_layer,
    grouped_attention,
    grouped_mask,
    rotary_embedding,
    rotated,
    time_embedding,
)
from pirl_core.policy.images import Resize
from pirl_core.policy.layers import Run, plain
from pirl_core.policy.stem import ConvStem


class SmolVlaShape(NamedTuple):
    """Sizes of a SmolVLA. The expert has the VLM's depth and heads. *_mlp: widths inside the feed-forward layers.
    patch: pixels. shuffle: how many patches a side become one image token. stem: patch is SigLIP's own patch embedding;
    conv see ``ConvStem``."""

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
    shuffle: int
    expert_width: int
    expert_mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    stem: Literal["patch", "conv"]

    @property
    def family(self) -> str:
        return "smolvla"


def smolvla_shape(size: Size, data: DataSizes) -> SmolVlaShape:
    """nano, tiny, S, M and L: to train from scratch, one token a patch. full: lerobot/smolvla_base, which expects
    512-pixel images, a vocabulary of 49280, 48 text tokens, 32 padded state and action numbers and a horizon of 50.

    Raises UserError when the images do not divide into patches and these into tokens.
    """
    if size == "full":
        shape = SmolVlaShape(
            **data._asdict(), vlm_width=960, vlm_layers=16, vlm_mlp=2560,
            vision_width=768, vision_layers=12, vision_heads=12, vision_mlp=3072, patch=16, shuffle=4,
            expert_width=720, expert_mlp=2048, heads=15, kv_heads=5, head_dim=64, stem="patch",
        )  # fmt: skip
    else:
        vlm, layers, vision, vision_layers, expert, heads = {
            "nano": (32, 2, 32, 1, 32, 2),
            "tiny": (96, 3, 96, 2, 96, 4),
            "S": (128, 4, 96, 3, 80, 4),
            "M": (192, 6, 128, 4, 144, 6),
            "L": (256, 8, 192, 6, 192, 8),
        }[size]
        shape = SmolVlaShape(
            **data._asdict(), vlm_width=vlm, vlm_layers=layers, vlm_mlp=3 * vlm,
            vision_width=vision, vision_layers=vision_layers, vision_heads=vision // 32, vision_mlp=2 * vision,
            patch=16, shuffle=1, expert_width=expert, expert_mlp=3 * expert, heads=heads, kv_heads=2, head_dim=32,
            stem="conv",
        )  # fmt: skip
    unit = shape.patch * shape.shuffle
    if data.image_size % unit:
        raise UserError(f"image size {data.image_size}: SmolVLA of size {size} takes multiples of {unit} pixels")
    return shape


def smolvlm_config(shape: SmolVlaShape) -> SmolVLMConfig:
    """transformers' configuration of the VLM; the image token lies outside the vocabulary."""
    return SmolVLMConfig(
        text_config={"model_type": "llama", **_llama(shape, shape.vlm_width, shape.vlm_mlp, shape.vocabulary)},
        vision_config={
            "hidden_size": shape.vision_width,
            "intermediate_size": shape.vision_mlp,
            "num_hidden_layers": shape.vision_layers,
            "num_attention_heads": shape.vision_heads,
            "image_size": shape.image_size,
            "patch_size": shape.patch,
        },
        scale_factor=shape.shuffle,
        image_token_id=shape.vocabulary,
    )


def _llama(shape: SmolVlaShape, width: int, mlp: int, vocabulary: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": shape.vlm_layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": vocabulary,
        "rms_norm_eps": 1e-5,
        "bos_token_id": None,
        "eos_token_id": None,
    }


class SmolVla(nn.Module):
    """The backbone: ``encode`` an observation once, then ask for the ``velocity`` as often as needed.

    ``run_layer``: how layers run; see ``layers``.
    Weights may be of any float dtype; inputs are cast to it.
    """

    resize: Resize = "lerobot"

    def __init__(self, shape: SmolVlaShape) -> None:
        super().__init__()
        self.shape = shape
        self.run_layer: Run = plain
        self.vlm = SmolVLMModel(smolvlm_config(shape))
        self.lm_expert = LlamaModel(LlamaConfig(**_llama(shape, shape.expert_width, shape.expert_mlp, 1)))
        # The expert is fed embeddings only.
        self.lm_expert.embed_tokens = None
        for model in (self.vlm.text_model, self.lm_expert):
            # Computed anew at each call: see ``gemma``.
            model.rotary_emb = None
        memory_width = shape.kv_heads * shape.head_dim
        for layer in self.lm_expert.layers[1::2]:
            layer.self_attn.k_proj = nn.Linear(memory_width, memory_width, bias=False)
            layer.self_attn.v_proj = nn.Linear(memory_width, memory_width, bias=False)
        # Blocks run through their own forward, so that hooks on them (FSDP's) see it.
        for layer in (*self.vlm.text_model.layers, *self.lm_expert.layers[::2]):
            layer.forward = MethodType(decoder_layer, layer)
        for layer in self.lm_expert.layers[1::2]:
            layer.forward = MethodType(_cross_layer, layer)
        self.stem: ConvStem | None = None
        if shape.stem == "conv":
            self.stem = ConvStem(shape.vision_width, shape.vlm_width)
            self.vlm.vision_model.embeddings.patch_embedding = None
        self.state_proj = nn.Linear(shape.state_dim, shape.vlm_width)
        self.action_in_proj = nn.Linear(shape.action_dim, shape.expert_width)
        self.action_time_mlp_in = nn.Linear(2 * shape.expert_width, shape.expert_width)
        self.action_time_mlp_out = nn.Linear(shape.expert_width, shape.expert_width)
        self.action_out_proj = nn.Linear(shape.expert_width, shape.action_dim)

    @property
    def _shared(self) -> int:
        """Heads that read the same keys."""
        return self.shape.heads // self.shape.kv_heads

    @property
    def vlm_modules(self) -> list[nn.Module]:
        """What RL keeps frozen: all that ``encode`` runs through, so that a stored context stays true. LeRobot trains
        ``state_proj`` beside a frozen VLM; in SFT so may we."""
        modules = [self.vlm, self.state_proj, self.stem]
        return [module for module in modules if module is not None]

    @property
    def context_width(self) -> int:
        """Width of ``pooled`` and state together, what a critic after the VLM reads."""
        return self.shape.vlm_width + self.shape.state_dim

    def freeze_vlm(self) -> None:
        """RL trains the expert alone (App. B.2)."""
        for module in self.vlm_modules:
            module.requires_grad_(False)

    def encode(self, inputs: Inputs) -> Context:
        """Run the VLM once. memory: (B, N, 2, G, P, E), the keys and values of each layer. The state token counts among
        the prefix tokens, of ``pooled`` too."""
        language = self.vlm.text_model
        text = language.embed_tokens(inputs.tokens) * math.sqrt(self.shape.vlm_width)
        pieces = [text, self.state_proj(inputs.state.to(self.state_proj.weight.dtype))[:, None]]
        if inputs.images.shape[1]:
            pieces.insert(0, self._embed_images(inputs.images, text, inputs.tokens_valid))
        x = torch.cat(pieces, 1).to(text.dtype)
        count, length = x.shape[:2]
        images = inputs.tokens_valid.new_ones(count, length - text.shape[1] - 1)
        valid = torch.cat([images, inputs.tokens_valid, inputs.tokens_valid.new_ones(count, 1)], 1)
        # The state is the last token, and seen by no other.
        sees = torch.ones(length, length, dtype=torch.bool, device=x.device)
        sees[:-1, -1] = False
        mask = grouped_mask(valid[:, None, None, :] & sees, self._shared, x.dtype)
        rotary = rotary_embedding(valid.long().cumsum(1) - 1, self.shape.head_dim, x.dtype)
        memory = []
        for layer in language.layers:
            x, key, value = self.run_layer(layer, x, rotary, mask)
            memory.append(torch.stack([key, value], 1))
        x = language.norm(x).float()
        pooled = (x * valid[..., None]).sum(1) / valid.sum(1, keepdim=True)
        return Context(torch.stack(memory, 1), valid, pooled, inputs.state)

    def velocity(self, context: Context, x: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
        """v = A − ε (B, H, D) at the noisy actions x (B, H, D) and times tau (B,), and the features (B, H, W)."""
        suffix = self._embed_suffix(x, 1 - tau.double())
        count, length = suffix.shape[:2]
        prefix = context.valid[:, None, None, :]
        own = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        joined_mask = torch.cat([prefix.expand(-1, 1, length, -1), own.expand(count, 1, -1, -1)], -1)
        mask = grouped_mask(joined_mask, self._shared, suffix.dtype)
        prefix_mask = grouped_mask(prefix, self._shared, suffix.dtype)
        places = torch.arange(length, device=x.device).expand(count, -1)
        behind = context.valid.sum(1, keepdim=True) + places
        joined = rotary_embedding(behind, self.shape.head_dim, suffix.dtype)
        crossed = rotary_embedding(places, self.shape.head_dim, suffix.dtype)
        for index, layer in enumerate(self.lm_expert.layers):
            cached = context.memory[:, index]
            if index % 2:
                suffix = self.run_layer(layer, suffix, crossed, prefix_mask, cached)
            else:
                suffix, _, _ = self.run_layer(layer, suffix, joined, mask, cached)
        features = self.lm_expert.norm(suffix)
        return -self.action_out_proj(features), features

    def _embed_suffix(self, x: Tensor, t: Tensor) -> Tensor:
        """The expert's tokens: (B, H, W)."""
        dtype = self.action_in_proj.weight.dtype
        actions = self.action_in_proj(x.to(dtype))
        time = time_embedding(t, self.shape.expert_width)[:, None].expand_as(actions).to(actions.dtype)
        hidden = F.silu(self.action_time_mlp_in(torch.cat([actions, time], 2)))
        embedded: Tensor = self.action_time_mlp_out(hidden)
        return embedded

    def _embed_images(self, images: Tensor, text: Tensor, text_valid: Tensor) -> Tensor:
        """(B, C, 3, s, s) → (B, C·image tokens, W)."""
        count, cameras = images.shape[:2]
        tower = self.vlm.vision_model
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
        tokens: Tensor = self.vlm.connector(tower.post_layernorm(hidden))
        return tokens.reshape(count, -1, text.shape[-1]) * math.sqrt(self.shape.vlm_width)


def _cross_layer(
    layer: LlamaDecoderLayer, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor, cached: Tensor
) -> Tensor:
    """One Llama layer on x (B, H, W) that attends to nothing but ``cached`` (B, 2, G, P, E), mapped by the layer.

    mask: (B, 1, 1, P) of ``grouped_mask``, the same for all of x.
    """
    attention = layer.self_attn

    def heads(flat: Tensor) -> Tensor:
        split: Tensor = flat.unflatten(-1, (-1, attention.head_dim))
        return split.transpose(1, 2)

    query = heads(attention.q_proj(layer.input_layernorm(x)))
    memory = cached.to(attention.k_proj.weight.dtype).transpose(2, 3).flatten(3)
    key, value = heads(attention.k_proj(memory[:, 0])), heads(attention.v_proj(memory[:, 1]))
    # Under autocast the rotation is in float32; attention is not.
    query = rotated(query, rotary).to(value.dtype)
    mixed = grouped_attention(query, key, value, mask, attention.scaling)
    x = x + attention.o_proj(mixed.transpose(1, 2).flatten(2))
    out: Tensor = x + layer.mlp(layer.post_attention_layernorm(x))
    return out
