"""`python -m arca_diag` is `arca-diag`."""

from arca_diag.cli import main

if __name__ == "__main__":
    main()
