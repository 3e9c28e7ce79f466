"""SmolVLA: SmolVLM2 with an expert of cross-attention."""
