"""The fine policy (IV-B): diffusion over ranks in unit coordinates.

`process` holds the forward process and its algebra (Eq. 13, 14, 16), `model` a conditional model with its sampler and
guidance, `fine` what trains it, `policy` the policy "ddim".  The exchangeable parts have a folder each: `schedules`,
`predictions`, `backbones`, `samplers`, `losses`.  A new part is a new file there.
"""
