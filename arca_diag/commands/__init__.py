"""Commands in files of their own; `cli.py` puts them together."""
