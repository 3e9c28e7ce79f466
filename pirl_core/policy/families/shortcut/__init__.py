"""ReinFlow's shortcut model: the residual MLP of the family mlp, which is told the length of a step too."""
