import math
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlora.errors import DataError
from airlora.text import (
    FileVocabulary,
    TextComplexity,
    TokenizerVocabulary,
    lexical_entropy_nats,
    load_dataset,
    oov_rate,
    sample_complexity,
    words,
)

SST2_DEV = Path(__file__).resolve().parents[4] / "shared" / "data" / "sst2_sentence" / "dev.tsv"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("... -- !?", []),
        ("It's good.", ["It's", "good"]),
        ("rock 'n' roll", ["rock", "n", "roll"]),
        ("state-of-the-art -- no-", ["state-of-the-art", "no"]),
        ("don\u2019t", ["don\u2019t"]),
        ("snake_case 3.5 GHz", ["snake", "case", "3", "5", "GHz"]),
        ("Überraschung für café", ["Überraschung", "für", "café"]),
        ("cafe\u0301 noir", ["cafe\u0301", "noir"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("a\u2028b\tc\nd", ["a", "b", "c", "d"]),
    ],
)
def test_words_are_runs_of_letters_and_digits(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_entropy_by_hand() -> None:
    # Two of "a", one of "b", one of "c": 1/2 log 2 + 2 * 1/4 log 4 = 3/2 log 2.
    assert lexical_entropy_nats("A b a c") == pytest.approx(1.5 * math.log(2))


def test_entropy_of_a_text_without_words_is_zero() -> None:
    assert lexical_entropy_nats(" ... ") == 0.0


@given(st.integers(1, 50), st.integers(1, 5))
def test_entropy_of_equally_frequent_words_is_the_log_of_their_number(num_words: int, repeats: int) -> None:
    text = " ".join(f"w{i}" for i in range(num_words)) + " "
    assert lexical_entropy_nats(text * repeats) == pytest.approx(math.log(num_words), abs=1e-12)


@given(st.text(max_size=80))
def test_entropy_is_between_zero_and_the_log_of_the_number_of_words(text: str) -> None:
    entropy = lexical_entropy_nats(text)
    assert 0.0 <= entropy <= math.log(max(1, len(words(text)))) + 1e-12
    assert math.copysign(1.0, entropy) == 1.0


def test_oov_rate_counts_repeated_words_and_ignores_case() -> None:
    known = FileVocabulary(["Gain"])
    assert oov_rate("gain jitter jitter GAIN", known) == 0.5
    assert oov_rate("...", known) == 0.0


@given(st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=12), st.sets(st.sampled_from("abcd")))
def test_oov_rate_does_not_rise_as_the_vocabulary_grows(text: list[str], known: set[str]) -> None:
    some, more = FileVocabulary(sorted(known)), FileVocabulary([*known, "a"])
    assert 0.0 <= oov_rate(" ".join(text), more) <= oov_rate(" ".join(text), some) <= 1.0


def test_vocabulary_file_has_one_word_per_line(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeffGain\r\n\n straße \nx".encode())
    vocabulary = FileVocabulary.from_file(path)
    assert len(vocabulary) == 3
    assert "gain" in vocabulary
    assert "STRASSE" in vocabulary
    assert "jitter" not in vocabulary


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "holds no word"), (b" \n\n", "holds no word"), (b"good\n\xff\xfe\n", "line 2: not UTF-8")],
)
def test_empty_or_undecodable_vocabulary_file_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message):
        FileVocabulary.from_file(path)


def test_missing_vocabulary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.txt: no such file"):
        FileVocabulary.from_file(tmp_path / "none.txt")


class ByteLevelLike:
    """A tokenizer with the tokens "Ġgood" and "Bad", as in byte-level BPE, that counts its calls."""

    unk_token = "<unk>"  # noqa: S105

    def __init__(self) -> None:
        self.num_calls = 0

    def tokenize(self, text: str) -> list[str]:
        self.num_calls += 1
        known = {" good": ["Ġgood"], "Bad": ["Bad"], "??": ["<unk>"], " ??": ["<unk>"]}
        return known.get(text, list(text))


def test_tokenizer_vocabulary_knows_words_at_the_start_or_after_a_space() -> None:
    vocabulary = TokenizerVocabulary(ByteLevelLike())
    assert "good" in vocabulary
    assert "Bad" in vocabulary
    assert "bad" not in vocabulary
    assert "??" not in vocabulary


def test_tokenizer_vocabulary_caches_up_to_cache_size_words() -> None:
    tokenizer = ByteLevelLike()
    vocabulary = TokenizerVocabulary(tokenizer, cache_size=1)
    for _ in range(3):
        assert "Bad" in vocabulary
    assert tokenizer.num_calls == 1
    assert "good" in vocabulary
    assert "Bad" in vocabulary
    assert tokenizer.num_calls == 4


def test_sample_complexity_is_entropy_and_oov_rate() -> None:
    known = FileVocabulary(["good"])
    assert sample_complexity("good film", known) == TextComplexity(pytest.approx(math.log(2)), 0.5)


def test_complexity_of_real_sentences_is_plausible(minilm_vocabulary: TokenizerVocabulary) -> None:
    assert "film" in minilm_vocabulary
    assert "Film" in minilm_vocabulary
    assert "beamforming" not in minilm_vocabulary
    if not SST2_DEV.is_file():
        pytest.skip(f"{SST2_DEV} is not there")
    samples = [sample_complexity(text, minilm_vocabulary) for text in load_dataset(SST2_DEV).texts]
    # In film reviews about one word in ten is no single WordPiece, and the entropy is about 2.7 nats.
    assert 0.02 < fmean(sample.oov_rate for sample in samples) < 0.25
    assert 2.0 < fmean(sample.entropy_nats for sample in samples) < 3.5
