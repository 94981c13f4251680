"""`python -m lib.study.captioning`; see the package."""

from . import main

if __name__ == "__main__":
    main()
