"""Data sets of labelled texts, text statistics, and a generated corpus that needs no download.

- `complexity`: lexical entropy and OOV rate, the text features of the state (III-A1).
- `datasets`: `TextDataset`, and `load_dataset` for TSV, CSV, JSON, Parquet and the Hugging Face Hub.
- `named`: data sets that are known by name, and folders with a training and a held-out file.
- `embedded`: the generated corpus with its grammar and word lists.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
