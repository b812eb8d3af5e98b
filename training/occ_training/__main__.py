"""``python -m occ_training`` is ``occ-train``."""

from occ_training.cli import main

if __name__ == "__main__":
    main()
