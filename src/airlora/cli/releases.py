"""Commands for releases: publish, and repo init, tenant, rotate, renew, verify, gc."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from airlora.cli.app import app, make_console, show_progress
from airlora.cli.options import (
    Distortion,
    Importance,
    Json,
    Model,
    PackingCommand,
    RunQatSteps,
    Size,
    parse_precision,
)

if TYPE_CHECKING:
    from airlora.delivery.repository.repository import SignedRepository

__all__ = ["Keys", "Repo", "open_with_keys", "publish", "repo"]

repo = typer.Typer(help="Create, maintain and verify a signed repository of releases.", no_args_is_help=True)
app.add_typer(repo, name="repo")

Repo = Annotated[Path, typer.Argument(metavar="REPO", help="Folder of the repository: static files for a web server.")]
Keys = Annotated[
    Path | None,
    typer.Option("--keys", metavar="DIR", help="Folder of the private keys.", show_default="REPO-keys beside REPO"),
]


@app.command(cls=PackingCommand)
def publish(
    source: Annotated[Path, typer.Argument(metavar="RUN|STREAM", help="A finished run, or a stream file.")],
    repository: Repo,
    tenant: Annotated[
        str | None,
        typer.Option(metavar="T", help="Tenant that the release is for.", show_default="devices without a tenant"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Data that the accuracy of the prefixes is measured on.",
            show_default="the run's evaluation data; for a stream nothing is measured",
        ),
    ] = None,
    distortion: Distortion = None,
    size: Size = None,
    qat_steps: RunQatSteps = None,
    importance: Importance = None,
    model: Model = None,
    keys: Keys = None,
    as_json: Json = False,
) -> None:
    """Sign an adapter and the measured accuracy of its prefixes, and make it the newest release.

    A run is packed as by `airlora pack`. A stream is published unchanged.
    """
    from airlora.delivery.repository.publish import publish_stream
    from airlora.packing import Packing
    from airlora.workflows.pack import default_qat_steps
    from airlora.workflows.publish import prepare_release

    opened = open_with_keys(repository, keys)
    packing = None
    if not source.is_file() or qat_steps or any(value is not None for value in (distortion, size, importance)):
        packing = Packing(**parse_precision("auto", distortion, size), qat_steps=qat_steps or 0, importance=importance)
        if qat_steps is None and not source.is_file():
            packing = replace(packing, qat_steps=default_qat_steps(source))
    with show_progress() as progress:
        stream, cuts = prepare_release(source, packing, data=data, model=model, watcher=progress)
    manifest = publish_stream(opened, stream, tenant=tenant, cuts=cuts)
    if as_json:
        entry = manifest.stream
        result = {"version": manifest.version, "num_segments": entry.num_segments, "payload_bytes": entry.total_bytes}
        print(json.dumps(result | {"digest": entry.digest, "tenant": tenant}))
        return
    _show_manifest(make_console(), str(repository), tenant, manifest)


@repo.command()
def init(
    repository: Repo,
    keys: Keys = None,
    root_keys: Annotated[int, typer.Option(metavar="N", help="Number of root keys.")] = 3,
    root_threshold: Annotated[
        int, typer.Option(metavar="N", help="Number of root keys that must sign a change of keys.")
    ] = 2,
    root_days: Annotated[int, typer.Option(metavar="D", help="Validity of the list of keys, days.")] = 365,
    targets_days: Annotated[int, typer.Option(metavar="D", help="Validity of a release, days.")] = 180,
    snapshot_days: Annotated[int, typer.Option(metavar="D", help="Validity of a snapshot, days.")] = 30,
    timestamp_days: Annotated[
        int, typer.Option(metavar="D", help="Validity of a timestamp, days. Run `airlora repo renew` more often.")
    ] = 7,
    as_json: Json = False,
) -> None:
    """Create an empty repository and its keys."""
    from airlora.delivery.repository.create import create_repository, default_keys
    from airlora.delivery.repository.keys import KeyFolder

    folder = keys or default_keys(repository)
    days = {"root": root_days, "targets": targets_days, "snapshot": snapshot_days, "timestamp": timestamp_days}
    create_repository(
        repository, KeyFolder(folder, repository), num_root_keys=root_keys, root_threshold=root_threshold, days=days
    )
    root = repository / "metadata" / "1.root.json"
    if as_json:
        print(json.dumps({"repository": str(repository), "keys": str(folder), "root": str(root)}))
        return
    console = make_console()
    console.print(f"{repository}: created, without a release", soft_wrap=True)
    console.print(f"{root}: copy this file to every device; devices trust it", soft_wrap=True)
    console.print(
        f"{folder}: private keys; move {folder / 'root'} to offline storage, publishing does not need it",
        soft_wrap=True,
    )


@repo.command()
def tenant(
    repository: Repo,
    name: Annotated[str, typer.Argument(metavar="T", help="Name of the tenant.")],
    keys: Keys = None,
    as_json: Json = False,
) -> None:
    """Create a key that signs releases of one tenant only."""
    from airlora.delivery.repository.roles import add_tenant

    opened = open_with_keys(repository, keys)
    key = add_tenant(opened, name)
    _say({"tenant": name, "keyid": key.keyid}, f"{name}: added with key {key.keyid[:12]}", as_json=as_json)


@repo.command()
def rotate(
    repository: Repo,
    role: Annotated[
        str, typer.Option(metavar="R", help="`root`, `targets`, `snapshot`, `timestamp`, or the name of a tenant.")
    ],
    keys: Keys = None,
    as_json: Json = False,
) -> None:
    """Replace the key of a role by a new one; for `root`, the oldest key.

    Needs the root keys. For a tenant, needs the targets key.
    """
    from airlora.delivery.repository.roles import rotate_key

    gone, new = rotate_key(open_with_keys(repository, keys), role)
    text = f"{role}: revoked {', '.join(keyid[:12] for keyid in gone)}, added {new[:12]}"
    _say({"role": role, "revoked": gone, "keyid": new}, text, as_json=as_json)


@repo.command()
def renew(
    repository: Repo,
    roles: Annotated[
        list[str] | None, typer.Option("--role", metavar="R", help="Also sign this role again; repeatable.")
    ] = None,
    keys: Keys = None,
    as_json: Json = False,
) -> None:
    """Sign snapshot and timestamp again, which proves to devices that no newer release is withheld."""
    from airlora.delivery.repository.roles import renew
    from airlora.delivery.repository.verify import verify_repository

    opened = open_with_keys(repository, keys)
    renew(opened, roles=("snapshot", "timestamp", *(roles or ())))
    expires = {role: f"{when:%Y-%m-%dT%H:%M:%SZ}" for role, when in verify_repository(opened).expires.items()}
    _say({"expires": expires}, f"{repository}: valid until {expires['timestamp']}", as_json=as_json)


@repo.command()
def verify(repository: Repo, as_json: Json = False) -> None:
    """Verify every signature, digest and segment, as a device does that starts from the first root."""
    from airlora.delivery.repository.verify import verify_repository

    report = verify_repository(open_with_keys(repository, None))
    if as_json:
        manifests = {name or "": manifest.model_dump() for name, manifest in report.manifests.items()}
        expires = {role: f"{when:%Y-%m-%dT%H:%M:%SZ}" for role, when in report.expires.items()}
        result = {"releases": manifests, "expires": expires, "warnings": report.warnings, "num_bytes": report.num_bytes}
        print(json.dumps(result))
        return
    console = make_console()
    for name, manifest in report.manifests.items():
        _show_manifest(console, str(repository), name, manifest)
    now = datetime.now(UTC)
    days = ", ".join(f"{role} {(when - now).days} days" for role, when in report.expires.items())
    console.print(f"valid for: {days}", soft_wrap=True)
    for warning in report.warnings:
        console.print(warning, style="yellow", soft_wrap=True)
    what = f"{len(report.manifests)} releases" if report.manifests else "no release"
    console.print(f"{repository}: verified, {what}, {report.num_bytes:,} bytes", soft_wrap=True)


@repo.command()
def gc(
    repository: Repo,
    keep: Annotated[int, typer.Option(metavar="N", help="Number of releases to keep beside the newest.")] = 1,
    keys: Keys = None,
    as_json: Json = False,
) -> None:
    """Remove releases and metadata that devices no longer need."""
    from airlora.delivery.repository.publish import collect_garbage

    removed = collect_garbage(open_with_keys(repository, keys), keep=keep)
    text = f"{repository}: removed {removed['num_files']} files, {removed['num_bytes']:,} bytes"
    _say(dict(removed), text, as_json=as_json)


def open_with_keys(repository: Path, keys: Path | None) -> SignedRepository:
    """Return a repository with its keys, by default those beside it; raises `ReleaseError`."""
    from airlora.delivery.repository.create import default_keys, open_repository
    from airlora.delivery.repository.keys import KeyFolder

    return open_repository(repository, KeyFolder(keys or default_keys(repository), repository))


def _say(result: dict[str, Any], text: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
    else:
        make_console().print(text, soft_wrap=True)


def _show_manifest(console: Console, repository: str, name: str | None, manifest: Any) -> None:
    whose = "" if name is None else f" of {name}"
    table = Table(title=f"{repository}: release {manifest.version}{whose}", title_justify="left")
    for column in ("bytes", "components", "accuracy", "loss"):
        table.add_column(column, justify="right")
    for row in manifest.cuts:
        table.add_row(f"{row.num_bytes:,}", str(row.num_components), f"{row.accuracy:.2%}", f"{row.loss:.4f}")
    if not manifest.cuts:
        table.add_row(f"{manifest.stream.total_bytes:,}", "", "not measured", "")
    console.print(table)
    entry = manifest.stream
    console.print(
        f"stream {entry.digest[:12]}: {entry.total_bytes:,} bytes in {entry.num_segments} segments, "
        f"header {entry.head_bytes:,} bytes; published {manifest.created}",
        soft_wrap=True,
    )
