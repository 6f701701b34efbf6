"""`python -m airlora` is the command `airlora`."""

from airlora.cli import main

if __name__ == "__main__":
    main()
