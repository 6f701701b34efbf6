import pytest

from airlora.text import DOMAINS, Domain
from airlora.text.embedded.lexicon import ADJECTIVES, FALLING, FAULTS, MERITS, RISING


def test_adjectives_are_balanced_in_number_and_strength() -> None:
    values = sorted(ADJECTIVES.values())
    assert values == sorted(-value for value in values)
    assert set(values) == {-2.0, -1.0, 1.0, 2.0}
    assert len(values) == 72  # a duplicate word would be missing here


def test_good_and_bad_nouns_and_verbs_are_balanced() -> None:
    assert len(MERITS) == len(FAULTS)
    assert len(RISING) == len(FALLING)
    assert not {*MERITS} & {*FAULTS}
    assert not {*RISING} & {*FALLING}


@pytest.mark.parametrize("domain", DOMAINS.values(), ids=DOMAINS.keys())
def test_every_domain_is_balanced_and_without_adjectives_of_judgement(domain: Domain) -> None:
    assert len(domain.merits) == len(domain.faults)
    assert min(len(domain.good_when_high), len(domain.good_when_low)) >= 3
    assert len({*domain.aspects, *domain.things}) == len(domain.aspects) + len(domain.things) >= 12
    assert not {*domain.good_when_high} & {*domain.good_when_low}
    assert not ADJECTIVES.keys() & {word for phrase in (*domain.fillers, *domain.aspects) for word in phrase.split()}
    assert 0 <= domain.filler_rate <= 1


def test_domains_share_no_things() -> None:
    things = [thing for domain in DOMAINS.values() for thing in domain.things]
    assert len(DOMAINS) >= 6
    assert len(set(things)) == len(things)
