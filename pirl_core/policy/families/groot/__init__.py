"""GR00T N1.5: Eagle with a diffusion transformer as its head."""
