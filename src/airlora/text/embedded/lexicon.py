"""Words of the embedded corpus, written for airlora.

Values above 0 are positive judgements, values below 0 negative ones; 2 is strong and 1 is mild. Aspects, things and
measures are singular, so that one verb form fits all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ADJECTIVES", "DOMAINS", "FALLING", "FAULTS", "MERITS", "NEUTRAL_FILLERS", "RISING", "SAYING", "Domain"]


def _valued(value: float, listed: str) -> dict[str, float]:
    return dict.fromkeys(listed.split(), value)


ADJECTIVES: dict[str, float] = {
    **_valued(
        2.0,
        """superb excellent wonderful brilliant outstanding splendid terrific marvellous magnificent flawless
        exceptional fantastic first-rate perfect amazing stunning""",
    ),
    **_valued(
        1.0,
        """good decent pleasant solid likeable satisfying commendable worthwhile convincing enjoyable impressive
        admirable refreshing polished appealing charming useful sensible dependable agreeable""",
    ),
    **_valued(
        -1.0,
        """bad weak poor mediocre dull disappointing flawed clumsy sloppy forgettable unconvincing lacklustre tedious
        annoying unpleasant frustrating shabby tiresome second-rate careless""",
    ),
    **_valued(
        -2.0,
        """terrible awful dreadful horrible abysmal atrocious appalling dismal pathetic miserable disastrous unbearable
        hopeless lousy rotten ghastly""",
    ),
}
"""Values by adjective. The adjectives fit things of all domains."""

MERITS = ("charm", "polish", "good ideas", "happy surprises", "thoughtful touches", "real strengths", "good sense")
"""Good qualities of things of all domains."""

FAULTS = ("flaws", "errors", "rough edges", "bad surprises", "careless mistakes", "real weaknesses", "sloppy work")
"""Bad qualities of things of all domains."""

RISING = ("went up", "rose", "climbed", "increased", "doubled", "kept growing")
FALLING = ("went down", "fell", "dropped", "decreased", "shrank", "kept sinking")
SAYING = ("say", "think", "claim", "write", "insist")

NEUTRAL_FILLERS = (
    "after two weeks",
    "this time",
    "as of today",
    "for the record",
    "in the end",
    "after the second try",
    "all told",
    "to my eye",
)
"""Phrases for all domains that do not judge."""


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain of the corpus with its nouns and jargon.

    Args:
        name: Name of the domain in `TextDataset.groups`.
        things: Things to be judged.
        aspects: Components and properties of a thing that can be judged.
        good_when_high: Measures that should rise.
        good_when_low: Measures that should fall.
        merits: Good qualities of a thing.
        faults: Bad qualities of a thing.
        people: Groups of people with opinions, plural.
        fillers: Phrases of the domain that do not judge.
        filler_rate: Probability of a filler in a sentence.
    """

    name: str
    things: tuple[str, ...]
    aspects: tuple[str, ...]
    good_when_high: tuple[str, ...]
    good_when_low: tuple[str, ...]
    merits: tuple[str, ...]
    faults: tuple[str, ...]
    people: tuple[str, ...]
    fillers: tuple[str, ...]
    filler_rate: float


DOMAINS: dict[str, Domain] = {
    domain.name: domain
    for domain in (
        Domain(
            name="films",
            things=("film", "movie", "sequel", "thriller", "comedy", "drama"),
            aspects=("plot", "cast", "script", "ending", "music", "camera work", "dialogue", "opening", "lead"),
            good_when_high=("suspense", "audience score", "number of laughs"),
            good_when_low=("boredom", "number of yawns", "ticket price"),
            merits=("wit", "memorable scenes", "fresh jokes"),
            faults=("clichés", "plot holes", "stale jokes"),
            people=("the critics", "my friends", "the reviewers", "most viewers"),
            fillers=("on the big screen", "at the late show", "from the first scene", "with the whole family"),
            filler_rate=0.1,
        ),
        Domain(
            name="restaurants",
            things=("restaurant", "bistro", "diner", "pizzeria", "tavern", "café"),
            aspects=("soup", "service", "menu", "dessert", "wine list", "fish", "bread", "kitchen", "sauce"),
            good_when_high=("freshness", "star rating", "choice of dishes"),
            good_when_low=("waiting time", "bill", "noise"),
            merits=("flavour", "fresh herbs", "friendly faces"),
            faults=("overcooked food", "long queues", "dirty plates"),
            people=("the regulars", "the food writers", "our neighbours", "the guides"),
            fillers=("on a busy Friday", "at lunch", "for a table of six", "out on the terrace"),
            filler_rate=0.15,
        ),
        Domain(
            name="phones",
            things=("phone", "handset", "tablet", "smartwatch", "laptop", "headset"),
            aspects=("screen", "camera", "battery", "speaker", "keyboard", "interface", "fingerprint sensor", "casing"),
            good_when_high=("battery life", "frame rate", "download speed"),
            good_when_low=("boot time", "number of crashes", "charging time"),
            merits=("handy shortcuts", "spare memory", "smooth animations"),
            faults=("bugs", "adware", "stutter"),
            people=("the testers", "the bloggers", "my colleagues", "the vendors"),
            fillers=("since the OTA update", "over USB-C", "on the OLED model", "with 5G switched on"),
            filler_rate=0.25,
        ),
        Domain(
            name="hotels",
            things=("hotel", "guesthouse", "hostel", "resort", "inn", "lodge"),
            aspects=("room", "breakfast", "reception", "pool", "view", "bed", "bathroom", "location", "staff"),
            good_when_high=("guest rating", "comfort", "level of cleanliness"),
            good_when_low=("street noise", "room rate", "wait at the desk"),
            merits=("quiet corners", "clean towels", "helpful staff"),
            faults=("bedbugs", "hidden charges", "mould"),
            people=("the travel agents", "the other guests", "the brochures", "the locals"),
            fillers=("on our second stay", "in the low season", "at half board", "with two small children"),
            filler_rate=0.2,
        ),
        Domain(
            name="networks",
            things=("router", "base station", "backhaul link", "gateway", "repeater", "firmware"),
            aspects=("beamforming", "handover", "scheduler", "web console", "mesh mode", "link adaptation", "antenna"),
            good_when_high=("throughput", "uptime", "spectral efficiency", "goodput"),
            good_when_low=("latency", "jitter", "packet loss", "bit error rate"),
            merits=("headroom", "sane defaults", "spare ports"),
            faults=("dropouts", "kernel panics", "retransmissions"),
            people=("the integrators", "the field engineers", "the sysadmins", "the datasheets"),
            fillers=(
                "behind a CGNAT gateway",
                "at 3.5 GHz with 64-QAM",
                "over an mmWave hop",
                "with MU-MIMO enabled",
                "on the LTE fallback carrier",
                "at the cell edge",
            ),
            filler_rate=0.5,
        ),
        Domain(
            name="medicine",
            things=("treatment", "inhaler", "drug", "implant", "vaccine", "infusion pump"),
            aspects=(
                "tolerability",
                "dosing",
                "bioavailability",
                "safety profile",
                "titration",
                "follow-up",
                "leaflet",
            ),
            good_when_high=("remission rate", "adherence", "haemoglobin response"),
            good_when_low=("relapse rate", "pain score", "readmission rate", "mortality"),
            merits=("lasting relief", "proven benefit", "sound evidence"),
            faults=("adverse events", "side effects", "contraindications"),
            people=("the clinicians", "the cardiologists", "the investigators", "the pharmacists"),
            fillers=(
                "in the dose-escalation arm",
                "under metoprolol",
                "in patients with comorbidities",
                "at 40 mg subcutaneously",
                "after percutaneous intervention",
                "in the placebo-controlled extension",
            ),
            filler_rate=0.5,
        ),
        Domain(
            name="finance",
            things=(
                "ledger",
                "accounting package",
                "payroll module",
                "trading desk tool",
                "invoicing app",
                "ERP add-on",
            ),
            aspects=(
                "audit trail",
                "reporting",
                "reconciliation",
                "bank import",
                "dashboard",
                "VAT handling",
                "export",
            ),
            good_when_high=("matching accuracy", "degree of automation", "return on investment"),
            good_when_low=("closing time", "licence fee", "posting error rate"),
            merits=("clear reports", "audit safety", "ready-made templates"),
            faults=("rounding errors", "duplicate postings", "hidden fees"),
            people=("the auditors", "the bookkeepers", "the controllers", "the consultants"),
            fillers=(
                "under IFRS 16",
                "with multi-currency accruals",
                "at the quarterly close",
                "on the SaaS tier",
                "with SEPA direct debits",
            ),
            filler_rate=0.4,
        ),
        Domain(
            name="energy",
            things=("heat pump", "inverter", "charger", "solar kit", "thermostat", "wind turbine"),
            aspects=("wiring", "insulation", "control panel", "defrosting", "manual", "compressor", "mounting frame"),
            good_when_high=("yield", "efficiency", "storage capacity"),
            good_when_low=("standby loss", "electricity bill", "vibration", "fault rate"),
            merits=("spare capacity", "solid workmanship", "quiet nights"),
            faults=("leaks", "short circuits", "loose screws"),
            people=("the installers", "the electricians", "the retailers", "the inspectors"),
            fillers=("below minus ten", "on three-phase current", "with R290 refrigerant", "at partial load"),
            filler_rate=0.35,
        ),
    )
}
"""Domains by name."""
