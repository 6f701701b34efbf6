"""`python -m airlora.cli`."""

from airlora.cli.app import main

if __name__ == "__main__":
    main()
