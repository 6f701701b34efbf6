"""`python -m airlora` is the command `airlora`."""

from airlora.cli.app import main

if __name__ == "__main__":
    main()
