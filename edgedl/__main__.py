"""`python -m edgedl`."""

from edgedl.cli import main

if __name__ == "__main__":
    main()
