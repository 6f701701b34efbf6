"""What is fine-tuned and how it is scored: tasks, data, batches, base models, evaluation."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
