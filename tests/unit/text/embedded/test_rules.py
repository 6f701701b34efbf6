import string

import pytest

from airlora.text.embedded import rules
from airlora.text.embedded.rules import Phrase, Rule

TABLES = {name: getattr(rules, name) for name in rules.__all__ if name.isupper()}


@pytest.mark.parametrize(
    ("rule", "inner", "text", "value"),
    [
        (rules.DEGREES[0], Phrase("superb", 2.0), "utterly superb", 3.0),
        (rules.DEGREES[3], Phrase("bad", -1.0), "rather bad", -0.5),
        (rules.TURNING[0], Phrase("good", 1.0), "is not good", -0.5),
        (rules.TURNING[0], Phrase("bad", -1.0), "is not bad", 0.5),
        (rules.GUARDED[1], Phrase("dull", -1.0), "is nothing if not dull", -1.0),
        (rules.LACKING[2], Phrase("flaws", -1.0), "has no flaws", 1.0),
        (rules.FRAMES_TURNING[0], Phrase("the plot is not bad", 0.5), "I doubt that the plot is not bad", -0.25),
    ],
)
def test_value_by_hand(rule: Rule, inner: Phrase, text: str, value: float) -> None:
    assert rule.apply(inner) == Phrase(text, value)


def test_nouns_are_filled_in() -> None:
    assert rules.RIVAL[0].apply(Phrase("awful", -2.0), thing="router") == Phrase(
        "this router makes the last one look awful", 2.0
    )


def slots(template: str) -> set[str | None]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


@pytest.mark.parametrize("name", TABLES)
def test_every_template_has_its_slot_and_every_table_one_sign(name: str) -> None:
    entries = TABLES[name]
    assert len(set(entries)) == len(entries) >= 3
    if isinstance(entries[0], Rule):
        assert all("x" in slots(rule.template) for rule in entries)
        assert len({rule.sign for rule in entries}) == 1
        assert all(rule.sign == (1 if rule.factor > 0 else -1) for rule in entries)
    else:
        assert all(slots(template) == {"a", "b"} for template in entries)


@pytest.mark.parametrize(
    ("keeping", "turning"),
    [("GUARDED", "TURNING"), ("FRAMES_KEEPING", "FRAMES_TURNING"), ("REPORTS_AGREED", "REPORTS_DENIED")],
)
def test_negating_words_stand_in_keeping_rules_too(keeping: str, turning: str) -> None:
    def negations(name: str) -> int:
        found = (word.strip(",") for rule in TABLES[name] for word in rule.template.split())
        return sum(word in {"not", "no", "never", "nothing", "nobody", "cannot", "less", "fail"} for word in found)

    assert negations(keeping) >= 2
    assert negations(turning) >= 1
