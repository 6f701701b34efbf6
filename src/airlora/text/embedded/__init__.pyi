from .corpus import LABEL_NAMES as LABEL_NAMES
from .corpus import embedded_corpus as embedded_corpus
from .corpus import generate_corpus as generate_corpus
from .lexicon import DOMAINS as DOMAINS
from .lexicon import Domain as Domain
