"""Put-on-plate in ManiSkill (RL4VLA's environments; Tables 4 and 7 of the paper): variations, pictures, scene."""
