"""The mathematics of flow policies. Time runs from noise (τ = 0) to action (τ = 1), as in the paper."""
