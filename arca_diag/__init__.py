"""Shows whether the token-level credit signals of a LoRA RL run have collapsed."""

__version__ = "0.1.0"
