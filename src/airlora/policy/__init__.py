"""Rank policies: functions from an observation to ranks.

| module | content |
|---|---|
| `base` | protocols of policies and the decision problem |
| `specs` | spec of every policy that users choose by name, and the registry that finds them |
| `factory` | making policies by name; their files |
| `coarse`, `networks`, `ppo_equations`, `ppo` | the paper's coarse policy (Eq. 11-12), and the policy `ppo` |
| `diffusion` | the paper's fine policy (Eq. 13-19), and the policies `ddim` and `distilled` |
| `hierarchical` | the paper's policy `airllm`, which joins both |
| `allocate`, `utility` | the planner, and the utility model that is fitted to measured losses |
| `cma` | black-box search by CMA-ES |
| `greedy`, `eva`, `constant`, `random`, `table` | policies that do not learn |
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
