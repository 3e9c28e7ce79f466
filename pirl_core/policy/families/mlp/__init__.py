"""ReinFlow's residual MLP: a flow policy on numbers alone, without pictures and without words."""
