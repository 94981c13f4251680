"""`python -m lib`: the command line of the study."""

import sys

if __name__ == "__main__":
    try:
        from .study.cli import main
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error.name} is not installed here: 'make setup' installs everything")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(main())
