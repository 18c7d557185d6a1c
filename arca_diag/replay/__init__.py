"""The only code that runs a model: checked rollouts in, per-token numbers out."""
