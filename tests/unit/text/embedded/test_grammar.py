import random
import re
import string
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlora.text import DOMAINS, words
from airlora.text.embedded import grammar
from airlora.text.embedded.grammar import KINDS, MIN_WORDS, Phrase, PortableRandom, Rule, sentence
from airlora.text.embedded.lexicon import ADJECTIVES

SEEDS = st.integers(0, 10_000)
DOMAIN_NAMES = st.sampled_from(sorted(DOMAINS))
SIGNS = st.sampled_from([-1, 1])


def adjective_values(text: str) -> list[float]:
    return [ADJECTIVES[word] for word in words(text) if word in ADJECTIVES]


@given(SEEDS, DOMAIN_NAMES, SIGNS, st.sampled_from(sorted(KINDS)))
def test_sentence_has_the_given_sign_and_form(seed: int, domain: str, sign: int, kind: str) -> None:
    phrase = sentence(PortableRandom(seed), DOMAINS[domain], sign, kind)
    assert phrase.value * sign > 0
    assert phrase == sentence(PortableRandom(seed), DOMAINS[domain], sign, kind)
    assert phrase.text[0].isupper() or phrase.text[0].isdigit()
    assert phrase.text.endswith(".")
    assert "{" not in phrase.text
    assert MIN_WORDS <= len(phrase.text.split()) <= 30


@given(SEEDS, DOMAIN_NAMES, SIGNS)
def test_adjectives_of_counterfactuals_and_comparisons_have_the_opposite_sign(
    seed: int, domain: str, sign: int
) -> None:
    for kind in ("counterfactual", "comparison"):
        (value,) = adjective_values(sentence(PortableRandom(seed), DOMAINS[domain], sign, kind).text)
        assert value * sign < 0


@given(SEEDS, DOMAIN_NAMES, SIGNS)
def test_sum_decides_three_judgements(seed: int, domain: str, sign: int) -> None:
    phrase = sentence(PortableRandom(seed), DOMAINS[domain], sign, "trio")
    values = adjective_values(phrase.text)
    assert len(values) == 3
    assert sum(values) == phrase.value
    assert len({value > 0 for value in values}) == 2


@given(SEEDS, DOMAIN_NAMES, SIGNS)
def test_balance_has_two_judgements_of_different_sign(seed: int, domain: str, sign: int) -> None:
    phrase = sentence(PortableRandom(seed), DOMAINS[domain], sign, "balance")
    first, second = adjective_values(phrase.text)
    assert first * second < 0
    assert abs(phrase.value) >= 1


def test_no_aspect_or_measure_occurs_twice() -> None:
    for seed in range(300):
        text = sentence(PortableRandom(seed), DOMAINS["networks"], 1, "contrast").text
        for noun in (*DOMAINS["networks"].aspects, "throughput", "uptime", "latency", "jitter", "packet loss"):
            assert text.lower().count(f"the {noun}") <= 1


@given(SEEDS, DOMAIN_NAMES, SIGNS)
def test_negations_change_the_sign_and_false_negations_keep_it(seed: int, domain: str, sign: int) -> None:
    text = sentence(PortableRandom(seed), DOMAINS[domain], sign, "clause").text
    for rules, factor in ((grammar.NEGATIONS, -1), (grammar.FALSE_NEGATIONS, 1)):
        for rule in rules:
            before, after = rule.template.split("{x}")
            found = re.search(rf"{before}([\w-]+){after}", text)
            # "is never anything but x" contains no negation as a whole, nor the reverse.
            if found and found[1] in ADJECTIVES:
                assert ADJECTIVES[found[1]] * factor * sign > 0


AFFIRMATION = (
    "the [^,;]+? (?:is|was|feels|seems|turned out|remains) (?:(?:utterly|really|absolutely|rather|somewhat|mildly) )?"
)


@pytest.mark.parametrize(
    ("pattern", "decides"),
    [
        (f"(?:although|even if) {AFFIRMATION}(X), {AFFIRMATION}(X)", 1),
        (f"{AFFIRMATION}(X), (?:although|even if|never mind that) {AFFIRMATION}(X)", 0),
        (f"{AFFIRMATION}(X), but {AFFIRMATION}(X)", 1),
        (f"it is true that {AFFIRMATION}(X), yet {AFFIRMATION}(X)", 1),
    ],
)
def test_main_clause_decides_a_contrast(pattern: str, decides: int) -> None:
    compiled = re.compile(pattern.replace("X", "|".join(ADJECTIVES)), re.IGNORECASE)
    num_found = 0
    for seed in range(1500):
        sign = 1 if seed % 2 else -1
        found = compiled.search(sentence(PortableRandom(seed), DOMAINS["hotels"], sign, "contrast").text)
        if found:
            num_found += 1
            assert ADJECTIVES[found.groups()[decides]] * sign > 0
            assert ADJECTIVES[found.groups()[1 - decides]] * sign < 0
    assert num_found >= 20


TABLES = {
    name: value
    for name, value in vars(grammar).items()
    if isinstance(value, tuple) and all("{" in getattr(entry, "template", entry) for entry in value)
}


@pytest.mark.parametrize(
    ("rule", "inner", "text", "value"),
    [
        (grammar.DEGREES[0], Phrase("superb", 2.0), "utterly superb", 3.0),
        (grammar.DEGREES[3], Phrase("bad", -1.0), "rather bad", -0.5),
        (grammar.NEGATIONS[0], Phrase("good", 1.0), "is not good", -0.5),
        (grammar.NEGATIONS[0], Phrase("bad", -1.0), "is not bad", 0.5),
        (grammar.FALSE_NEGATIONS[1], Phrase("dull", -1.0), "is nothing if not dull", -1.0),
        (grammar.LACKING[2], Phrase("flaws", -1.0), "has no flaws", 1.0),
        (grammar.DENYING_FRAMES[0], Phrase("the plot is not bad", 0.5), "I doubt that the plot is not bad", -0.25),
    ],
)
def test_rule_multiplies_the_value_by_its_factor(rule: Rule, inner: Phrase, text: str, value: float) -> None:
    assert rule.apply(inner) == Phrase(text, value)


def test_rule_fills_in_nouns() -> None:
    assert grammar.COMPARISONS[0].apply(Phrase("awful", -2.0), thing="router") == Phrase(
        "this router makes the last one look awful", 2.0
    )


def slots(template: str) -> set[str | None]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


@pytest.mark.parametrize("name", TABLES)
def test_every_template_has_its_slots_and_every_table_one_sign(name: str) -> None:
    entries = TABLES[name]
    assert len(set(entries)) == len(entries) >= 3
    if isinstance(entries[0], Rule):
        assert all("x" in slots(rule.template) for rule in entries)
        assert len({rule.sign for rule in entries}) == 1
        assert all(rule.sign == (1 if rule.factor > 0 else -1) for rule in entries)
    else:
        assert all(slots(template) == {"a", "b"} for template in entries)


@pytest.mark.parametrize(
    ("affirming", "negating"),
    [
        ("FALSE_NEGATIONS", "NEGATIONS"),
        ("AFFIRMING_FRAMES", "DENYING_FRAMES"),
        ("SHARED_REPORTS", "DISPUTED_REPORTS"),
    ],
)
def test_affirming_rules_contain_negating_words_too(affirming: str, negating: str) -> None:
    def negations(name: str) -> int:
        found = (word.strip(",") for rule in TABLES[name] for word in rule.template.split())
        return sum(word in {"not", "no", "never", "nothing", "nobody", "cannot", "less", "fail"} for word in found)

    assert negations(affirming) >= 2
    assert negations(negating) >= 1


@given(st.integers(0, 2**64), st.integers(1, 20))
def test_choices_depend_on_random_numbers_only(seed: int, num_options: int) -> None:
    rng, generator = PortableRandom(seed), random.Random(seed)
    for _ in range(20):
        assert rng.pick(range(num_options)) == int(generator.random() * num_options)
    assert rng.chance(0.4) == (generator.random() < 0.4)
    keys = [generator.random() for _ in range(num_options)]
    assert [keys[i] for i in rng.shuffled(range(num_options))] == sorted(keys)


def test_first_numbers_of_seed_42_are_those_of_python() -> None:
    # The values of random.Random(42).random() since Python 3.2: 0.639..., 0.025..., 0.275..., 0.223...
    rng = PortableRandom(42)
    assert [rng.pick(range(1000)) for _ in range(4)] == [639, 25, 275, 223]


def test_frequencies_match_weights_and_probabilities() -> None:
    rng = PortableRandom(0)
    counts = Counter(rng.weighted({"a": 1, "b": 0, "c": 3}) for _ in range(4000))
    assert counts["b"] == 0
    assert 0.22 < counts["a"] / 4000 < 0.28
    assert 0.27 < sum(rng.chance(0.3) for _ in range(4000)) / 4000 < 0.33


@given(st.lists(st.integers()), st.integers(0, 99))
def test_shuffle_is_a_permutation(options: list[int], seed: int) -> None:
    assert sorted(PortableRandom(seed).shuffled(options)) == sorted(options)
