"""The agent's trust layer behind the commands of the public `tuf-conformance` suite.

```console
$ tuf-conformance --entrypoint "python -m airlora.testing.conformance"
```

`init TRUSTED_ROOT`, `refresh` and `download` exit with 0 if they worked, else with 1 and a line on standard error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from airlora.delivery.device.link import HttpLink, LinkLimits, Patience
from airlora.delivery.device.trust import LinkFetcher
from airlora.delivery.repository.client import TrustedClient
from airlora.errors import AirloraError
from airlora.files import read_bytes

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code of one command."""
    parser = argparse.ArgumentParser(prog="airlora.testing.conformance", description=__doc__)
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url", default="")
    parser.add_argument("--target-name", default="")
    parser.add_argument("--target-base-url", default="")
    parser.add_argument("--target-dir", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("trusted_root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    asked = parser.parse_args(arguments)
    try:
        root = read_bytes(asked.trusted_root, "root", AirloraError) if asked.command == "init" else None
        # The suite's server answers at once or not at all.
        link = HttpLink(LinkLimits(max_attempts=2, first_wait_s=0.01))
        client = TrustedClient(
            asked.metadata_dir,
            asked.metadata_url,
            asked.target_base_url,
            LinkFetcher(link, Patience(link), max_bytes=1 << 30),
            root=root,
        )
        if asked.command == "refresh":
            client.refresh()
        if asked.command == "download":
            if asked.target_dir is None:
                parser.error("download needs --target-dir")
            client.download(asked.target_name, asked.target_dir)
    except AirloraError as error:
        print(f"airlora: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
