"""SAC Flow's Flow-G: another cell in the backbone of the family mlp."""
