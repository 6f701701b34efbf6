"""Make the golden repository and the state folder of a device that visited it; every later version must accept both.

PYTHONPATH=tests python tests/golden/release/make.py

The device installed releases 1 and 2 and fetched a part of release 3. The metadata are valid for a century. The private
keys are made in a temporary folder and deleted with it. Run the script only for a new version of the formats; then keep
the old files beside the new ones.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from airlora.delivery import (
    AgentPlan,
    KeyFolder,
    PrefixScore,
    StateFolder,
    Wish,
    add_tenant,
    create_repository,
    publish_stream,
    rotate_key,
    verify_repository,
    visit,
)
from delivery import URL, FakeLink, make_stream

HERE = Path(__file__).parent
CODEC = HERE.parent / "codec"
DAYS = 36_500


def main() -> None:
    repo, state = HERE / "repo", HERE / "state"
    for folder in (repo, state):
        shutil.rmtree(folder, ignore_errors=True)
    small, half = ((CODEC / f"{name}.airs").read_bytes() for name in ("small", "half"))
    newest = make_stream(size=32, max_distortion=0.005)
    with tempfile.TemporaryDirectory() as keys:
        days = dict.fromkeys(("root", "targets", "snapshot", "timestamp"), DAYS)
        repository = create_repository(repo, KeyFolder(Path(keys), repo), days=days)
        device = StateFolder(state)
        first_root = (repo / "metadata" / "1.root.json").read_bytes()

        def visit_once(**options: object) -> None:
            plan = AgentPlan(URL, root=first_root, **options)  # type: ignore[arg-type]
            found = visit(device, plan, FakeLink(repo, with_bundle=True), seed=0)
            if found.error is not None:
                raise found.error

        cuts = [
            PrefixScore(num_bytes=300, num_components=4, accuracy=0.7, loss=0.6),
            PrefixScore(num_bytes=len(small), num_components=16, accuracy=0.8, loss=0.5),
        ]
        publish_stream(repository, small, cuts=cuts)
        visit_once()
        add_tenant(repository, "acme")
        with repository.locked():
            with repository.edit_targets("acme") as targets:
                targets.unrecognized_fields["x-airlora-days"] = DAYS
            repository.commit()
        publish_stream(repository, half, tenant="acme")
        rotate_key(repository, "root")
        publish_stream(repository, half)
        visit_once()
        publish_stream(repository, newest)
        visit_once(wish=Wish(max_bytes=len(newest) - 1))
        (state / ".lock").unlink(missing_ok=True)
        (repo / ".lock").unlink(missing_ok=True)
        report = verify_repository(repository)
    expected = {
        "manifests": {tenant or "": manifest.model_dump(mode="json") for tenant, manifest in report.manifests.items()},
        "state": device.load().model_dump(mode="json"),
        "num_part_bytes": sum(path.stat().st_size for path in device.parts.iterdir()),
    }
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
