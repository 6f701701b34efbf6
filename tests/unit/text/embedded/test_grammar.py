import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlora.text import DOMAINS, words
from airlora.text.embedded.draw import Draw
from airlora.text.embedded.grammar import KINDS, MIN_WORDS, sentence
from airlora.text.embedded.lexicon import ADJECTIVES
from airlora.text.embedded.rules import GUARDED, TURNING

SEEDS = st.integers(0, 10_000)
DOMAIN_NAMES = st.sampled_from(sorted(DOMAINS))
SIGNS = st.sampled_from([-1, 1])


def adjective_values(text: str) -> list[float]:
    return [ADJECTIVES[word] for word in words(text) if word in ADJECTIVES]


@given(SEEDS, DOMAIN_NAMES, SIGNS, st.sampled_from(sorted(KINDS)))
def test_sentence_has_the_wanted_sign_and_form(seed: int, domain: str, sign: int, kind: str) -> None:
    phrase = sentence(Draw(seed), DOMAINS[domain], sign, kind)
    assert phrase.value * sign > 0
    assert phrase == sentence(Draw(seed), DOMAINS[domain], sign, kind)
    assert phrase.text[0].isupper() or phrase.text[0].isdigit()
    assert phrase.text.endswith(".")
    assert "{" not in phrase.text
    assert MIN_WORDS <= len(phrase.text.split()) <= 30


@given(SEEDS, DOMAIN_NAMES, SIGNS)
def test_what_is_unreal_or_said_of_a_rival_counts_against(seed: int, domain: str, sign: int) -> None:
    for kind in ("unreal", "rival"):
        (value,) = adjective_values(sentence(Draw(seed), DOMAINS[domain], sign, kind).text)
        assert value * sign < 0


@given(SEEDS, DOMAIN_NAMES, SIGNS)
def test_the_sum_decides_three_judgements(seed: int, domain: str, sign: int) -> None:
    phrase = sentence(Draw(seed), DOMAINS[domain], sign, "trio")
    values = adjective_values(phrase.text)
    assert len(values) == 3
    assert sum(values) == phrase.value
    assert len({value > 0 for value in values}) == 2


@given(SEEDS, DOMAIN_NAMES, SIGNS)
def test_a_balance_holds_two_judgements_of_different_sign(seed: int, domain: str, sign: int) -> None:
    phrase = sentence(Draw(seed), DOMAINS[domain], sign, "balance")
    first, second = adjective_values(phrase.text)
    assert first * second < 0
    assert abs(phrase.value) >= 1


def test_no_part_or_measure_is_named_twice() -> None:
    for seed in range(300):
        text = sentence(Draw(seed), DOMAINS["networks"], 1, "contrast").text
        for noun in (*DOMAINS["networks"].aspects, "throughput", "uptime", "latency", "jitter", "packet loss"):
            assert text.lower().count(f"the {noun}") <= 1


@given(SEEDS, DOMAIN_NAMES, SIGNS)
def test_a_turning_predicate_turns_and_a_guarded_one_does_not(seed: int, domain: str, sign: int) -> None:
    text = sentence(Draw(seed), DOMAINS[domain], sign, "plain").text
    for rules, factor in ((TURNING, -1), (GUARDED, 1)):
        for rule in rules:
            before, after = rule.template.split("{x}")
            found = re.search(rf"{before}([\w-]+){after}", text)
            # "is never anything but x" holds no turning rule whole, nor the other way round.
            if found and found[1] in ADJECTIVES:
                assert ADJECTIVES[found[1]] * factor * sign > 0


PLAINLY = (
    "the [^,;]+? (?:is|was|feels|seems|turned out|remains) (?:(?:utterly|really|absolutely|rather|somewhat|mildly) )?"
)


@pytest.mark.parametrize(
    ("pattern", "decides"),
    [
        (f"(?:although|even if) {PLAINLY}(X), {PLAINLY}(X)", 1),
        (f"{PLAINLY}(X), (?:although|even if|never mind that) {PLAINLY}(X)", 0),
        (f"{PLAINLY}(X), but {PLAINLY}(X)", 1),
        (f"it is true that {PLAINLY}(X), yet {PLAINLY}(X)", 1),
    ],
)
def test_the_main_clause_decides_a_contrast(pattern: str, decides: int) -> None:
    compiled = re.compile(pattern.replace("X", "|".join(ADJECTIVES)), re.IGNORECASE)
    num_found = 0
    for seed in range(1500):
        sign = 1 if seed % 2 else -1
        found = compiled.search(sentence(Draw(seed), DOMAINS["hotels"], sign, "contrast").text)
        if found:
            num_found += 1
            assert ADJECTIVES[found.groups()[decides]] * sign > 0
            assert ADJECTIVES[found.groups()[1 - decides]] * sign < 0
    assert num_found >= 20
