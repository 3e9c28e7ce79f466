"""GR00T N1.5 (arXiv 2503.14734), at any size: the Eagle 2.5 VLM and the action head.

Axes: B batch, C cameras, L text tokens, P prefix tokens, N patches of an image, H horizon, S state numbers, D action
numbers, W width of the VLM, E width of the head's output.
Time: τ = 0 is noise, τ = 1 is the action, v = A − ε, as GR00T itself has it; nothing is turned.

Eagle 2.5 is transformers' SigLIP → one linear map → Qwen3, causal, cut to its first 12 layers; its feature is the last
hidden state after the final norm. Image features take the place of image tokens in the prompt, wherever these stand.
``encode`` ends after the head's ``vlln`` and VL self-attention, the last modules that see neither noise nor time:
their output is all that the DiT reads of image and text, so it is what a rollout stores. Hence these two count as VLM
here, and are frozen with it, though the release keeps them in its head and trains them in SFT.
"""

import math
from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3Model, SiglipVisionConfig, SiglipVisionModel
from transformers.masking_utils import create_causal_mask

from pirl_core.errors import UserError
from pirl_core.params.sizes import Size
from pirl_core.policy.context import Context, DataSizes, Inputs
from pirl_core.policy.families.groot.head import ActionHead
from pirl_core.policy.images import Resize
from pirl_core.policy.layers import Run, plain
from pirl_core.policy.stem import ConvStem


class GrootShape(NamedTuple):
    """Sizes of a GR00T. text_length: most tokens of a prompt, image tokens counted where the prompt holds them.
    *_inner: widths inside the feed-forward layers. expert_width: the DiT's output. positions: the longest horizon.
    embodiments: slots with weights of their own; embodiment: the one in use. image_token: its id; outside the
    vocabulary, prompts are plain text and images go before them.
    stem: patch is SigLIP's own patch embedding; conv see ``ConvStem``."""

    image_size: int
    cameras: int
    vocabulary: int
    text_length: int
    state_dim: int
    action_dim: int
    horizon: int
    image_token: int
    patch: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    vision_inner: int
    vlm_width: int
    vlm_layers: int
    vlm_heads: int
    vlm_kv_heads: int
    vlm_head_dim: int
    vlm_inner: int
    vl_layers: int
    vl_heads: int
    dit_layers: int
    dit_heads: int
    dit_head_dim: int
    expert_width: int
    future_tokens: int
    positions: int
    embodiments: int
    embodiment: int
    dropout: float
    stem: Literal["patch", "conv"]

    @property
    def family(self) -> str:
        return "groot"

    @property
    def patches(self) -> int:
        """Image tokens of a camera."""
        return (self.image_size // self.patch) ** 2


def groot_shape(size: Size, data: DataSizes) -> GrootShape:
    """nano, tiny, S, M and L: to train from scratch. full: loads GR00T-N1.5-3B.

    full expects the release's vocabulary of 151680, state 64 and action 32 numbers, padded; it uses slot 31, which the
    release leaves for a new robot. All have its dropout, which acts in SFT, and in RL where ``rl.dropout`` keeps it.
    """
    if size == "full":
        return GrootShape(
            **data._asdict(), image_token=151669, patch=14,
            vision_width=1152, vision_layers=27, vision_heads=16, vision_inner=4304,
            vlm_width=2048, vlm_layers=12, vlm_heads=16, vlm_kv_heads=8, vlm_head_dim=128, vlm_inner=6144,
            vl_layers=4, vl_heads=32, dit_layers=16, dit_heads=32, dit_head_dim=48, expert_width=1024,
            future_tokens=32, positions=1024, embodiments=32, embodiment=31, dropout=0.2, stem="patch",
        )  # fmt: skip
    # Depths and widths: vision, VLM, VL self-attention, DiT.
    (vision, vision_layers), (vlm, vlm_layers), vl_layers, (dit_heads, dit_head_dim, dit_layers) = {
        "nano": ((32, 1), (64, 2), 1, (2, 16, 2)),
        "tiny": ((96, 2), (96, 2), 1, (4, 20, 2)),
        "S": ((96, 3), (128, 3), 1, (4, 20, 4)),
        "M": ((128, 4), (192, 6), 1, (4, 32, 6)),
        "L": ((192, 6), (256, 8), 2, (6, 32, 8)),
    }[size]
    return GrootShape(
        **data._asdict(), image_token=data.vocabulary, patch=16,
        vision_width=vision, vision_layers=vision_layers, vision_heads=vision // 32, vision_inner=2 * vision,
        vlm_width=vlm, vlm_layers=vlm_layers, vlm_heads=vlm // 32,
        vlm_kv_heads=math.gcd(vlm // 32, 2),  # they have to divide the heads
        vlm_head_dim=32, vlm_inner=2 * vlm,
        vl_layers=vl_layers, vl_heads=vlm // 32, dit_layers=dit_layers, dit_heads=dit_heads, dit_head_dim=dit_head_dim,
        expert_width=dit_heads * dit_head_dim, future_tokens=4, positions=data.horizon, embodiments=1, embodiment=0,
        dropout=0.2, stem="conv",
    )  # fmt: skip


def place_images(tokens: Tensor, valid: Tensor, count: int, image_token: int) -> tuple[Tensor, Tensor]:
    """The prompt [image tokens of camera 1 … C][text] of plain text.

    tokens: (B, L) ids, valid: (B, L) bool, count: image tokens of all cameras → both (B, count + L).
    """
    return F.pad(tokens, (count, 0), value=image_token), F.pad(valid, (count, 0), value=True)


class Groot(nn.Module):
    """The backbone: ``encode`` an observation once, then ask for the ``velocity`` as often as needed.

    ``run_layer``: how layers run; see ``layers``.
    """

    def __init__(self, shape: GrootShape) -> None:
        """Raises UserError for a horizon without positions, and for an embodiment without a slot."""
        super().__init__()
        if shape.horizon > shape.positions:
            raise UserError(f"horizon = {shape.horizon} exceeds GR00T's {shape.positions} positions; shorten it")
        if shape.embodiment >= shape.embodiments:
            raise UserError(
                f"embodiment = {shape.embodiment}: GR00T has slots 0 to {shape.embodiments - 1}; choose one"
            )
        self.shape = shape
        self.run_layer: Run = plain
        # A network with its own stem is given frames of its size, and sees all of them.
        self.resize: Resize = "isaac" if shape.stem == "patch" else "openpi"
        self.vision_model = SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=shape.vision_width,
                intermediate_size=shape.vision_inner,
                num_hidden_layers=shape.vision_layers,
                num_attention_heads=shape.vision_heads,
                image_size=shape.image_size,
                patch_size=shape.patch,
                vision_use_head=False,
            )
        )
        self.mlp1 = nn.Linear(shape.vision_width, shape.vlm_width)
        self.language_model = Qwen3Model(
            Qwen3Config(
                vocab_size=shape.vocabulary,
                hidden_size=shape.vlm_width,
                intermediate_size=shape.vlm_inner,
                num_hidden_layers=shape.vlm_layers,
                num_attention_heads=shape.vlm_heads,
                num_key_value_heads=shape.vlm_kv_heads,
                head_dim=shape.vlm_head_dim,
                rms_norm_eps=1e-6,
                rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
            )
        )
        self.stem: ConvStem | None = None
        if shape.stem == "conv":
            self.stem = ConvStem(shape.vision_width, shape.vlm_width)
            self.vision_model.embeddings.patch_embedding = None
        self.action_head = ActionHead(
            vlm_width=shape.vlm_width,
            vl_layers=shape.vl_layers,
            vl_heads=shape.vl_heads,
            dit_layers=shape.dit_layers,
            dit_heads=shape.dit_heads,
            dit_width=shape.dit_heads * shape.dit_head_dim,
            expert_width=shape.expert_width,
            state_dim=shape.state_dim,
            action_dim=shape.action_dim,
            slots=shape.embodiments,
            future_tokens=shape.future_tokens,
            positions=shape.positions,
            dropout=shape.dropout,
        )

    @property
    def context_width(self) -> int:
        """Width of ``pooled`` and state together, what a critic after the VLM reads."""
        return self.shape.vlm_width + self.shape.state_dim

    @property
    def vlm_modules(self) -> list[nn.Module]:
        """All that ``encode`` runs through, so that a stored context stays true while the rest trains."""
        head = self.action_head
        modules = [self.vision_model, self.mlp1, self.language_model, self.stem, head.vlln, head.vl_self_attention]
        return [module for module in modules if module is not None]

    def freeze_vlm(self) -> None:
        """RL trains the rest alone (App. B.2): state and action encoders, DiT and decoder."""
        for module in self.vlm_modules:
            module.requires_grad_(False)

    def encode(self, inputs: Inputs) -> Context:
        """Run the VLM once. memory: (B, P, W), what the DiT attends to; pooled is its mean, the critic's input in the
        official runs, not the mean of Eagle's own output.

        Where the image token is no word of the vocabulary, ``place_images`` puts them in front of the prompt; else the
        prompt holds them. Raises UserError when these are not C·N.
        """
        tokens, valid = inputs.tokens, inputs.tokens_valid
        cameras = inputs.images.shape[1]
        expected, image_token = cameras * self.shape.patches, self.shape.image_token
        if image_token >= self.shape.vocabulary:
            tokens, valid = place_images(tokens, valid, expected, image_token)
        holes = (tokens == image_token) & valid
        counts = holes.sum(1)
        # On the meta device there is nothing to count.
        if not tokens.is_meta and (counts != expected).any():
            raise UserError(
                f"a prompt has {int(counts[counts != expected][0])} image tokens (id {image_token}), but {cameras} "
                f"cameras of {self.shape.patches} need {expected}: correct the prompt template or env.cameras"
            )
        # The image token may lie outside the vocabulary.
        x = self.language_model.get_input_embeddings()(tokens.masked_fill(holes, 0))
        if cameras:
            patches = self._embed_images(inputs.images, x, valid & ~holes)
            x = x.masked_scatter(holes[..., None], patches.to(x.dtype))
        memory = self.action_head.remember(self._read(x, valid), valid, self.run_layer)
        pooled = (memory.float() * valid[..., None]).sum(1) / valid.sum(1, keepdim=True)
        return Context(memory, valid, pooled, inputs.state)

    def velocity(self, context: Context, x: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
        """v = A − ε (B, H, D) at the noisy actions x (B, H, D) and times tau (B,), and the features (B, H, E)."""
        slot = self.shape.embodiment
        out: tuple[Tensor, Tensor] = self.action_head.velocity(
            context.memory, context.valid, context.state, x, tau, slot, self.run_layer
        )
        return out

    def _read(self, x: Tensor, valid: Tensor) -> Tensor:
        """Qwen3 on embedded tokens (B, P, W), valid (B, P), as its own ``forward`` does it."""
        language = self.language_model
        positions = (valid.long().cumsum(1) - 1).clamp(min=0)
        # Without a mask attention is causal all the same; on the meta device there is no padding to find.
        mask = None if x.is_meta else create_causal_mask(language.config, x, valid.long(), None, position_ids=positions)
        rotary = language.rotary_emb(x, positions)
        for layer in language.layers:
            x = self.run_layer(layer, x, attention_mask=mask, position_embeddings=rotary)
        read: Tensor = language.norm(x)
        return read

    def _embed_images(self, images: Tensor, text: Tensor, text_valid: Tensor) -> Tensor:
        """(B, C, 3, s, s) → (B, C·N, W)."""
        count, cameras = images.shape[:2]
        flat = images.flatten(0, 1)
        tower = self.vision_model
        if self.stem is None:
            patches = tower.embeddings(flat)
        else:
            meaning = (text * text_valid[..., None]).sum(1) / text_valid.sum(1, keepdim=True)
            patches = self.stem(flat, meaning.repeat_interleave(cameras, 0))
            patches = patches + tower.embeddings.position_embedding.weight
        for layer in tower.encoder.layers:
            patches = self.run_layer(layer, patches, None)
        embedded: Tensor = self.mlp1(tower.post_layernorm(patches))
        return embedded.reshape(count, -1, text.shape[-1])
