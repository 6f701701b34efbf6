"""The fine policy (section IV-B): a diffusion model over rank patterns in unit coordinates.

| module | contents |
|---|---|
| `process` | forward process and its equations (Eq. 13, 14 and 16) |
| `schedules`, `predictions`, `samplers` | noise schedules, prediction types and samplers, each chosen by a setting |
| `backbones`, `losses` | denoising networks and training losses, each in a module of its own |
| `guidance`, `time_embedding` | classifier-free guidance and the embedding of the diffusion step |
| `model` | `DiffusionModel`: backbone, forward process, prediction type, sampler and guidance |
| `fine` | `FinePolicy`: training and sampling of a `DiffusionModel` |
| `advantage`, `learning` | training batches for the losses, made from a buffer of transitions |
| `policy` | `DiffusionPolicy`, the policy "ddim" |
"""
