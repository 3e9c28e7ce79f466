"""SAC Flow's Flow-T: another cell in the backbone of the family mlp."""
