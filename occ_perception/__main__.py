"""``python -m occ_perception`` is ``occ``."""

from occ_perception.cli import main

if __name__ == "__main__":
    main()
