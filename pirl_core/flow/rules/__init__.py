"""The noise rules: a file each, with one function.

``weights(tau, delta, level)`` gives the triple of ``flow.noise`` for times tau, a step delta and the present noise
level. A rule whose third argument is called ``std`` is given the noise net's instead, (B, H, D).
"""
