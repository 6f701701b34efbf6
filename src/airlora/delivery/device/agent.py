"""Visit of a device to its repository: refresh trust, download the newest adapter as far as wanted, install it.

States of a visit, and what changes them. Every way ends in the state *report*.

| state | event | next state |
|---|---|---|
| refresh | the newest manifest is verified and not older than those seen | select |
| refresh | nothing has been released; trust or network fails | report |
| select | the release was refused before, runs completely, or the server holds the device back | report |
| select | otherwise | download |
| download | a segment is verified, the prefix is an improvement and a check is due | test |
| download | all that is wanted is there, or the deadline or an error ends the download | last test |
| test, last test | all checks pass | installed: the switch names the prefix |
| test, last test | a check cannot tell | undecided: no further test before the last one |
| test | a check fails, and more bytes may follow | download |
| last test | a check fails for a prefix that the deadline or an error ended | report |
| test, last test | a check fails for the complete stream or all that is wanted | refused, for good |
| installed, undecided | more is wanted | download |
| installed, undecided, refused, last test | nothing more is wanted | report |

`decisions` makes the choices; this module carries them out.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airlora.codec import DecodedStream
from airlora.delivery.device.decisions import (
    AgentConfig,
    is_improvement,
    is_in_time,
    promised_accuracy,
    reason_to_skip,
    target_bytes,
    verify_manifest,
)
from airlora.delivery.device.download import PartialStream, fetch_stream
from airlora.delivery.device.health import AccuracyProbe, HealthUnknownError, parameter_check
from airlora.delivery.device.reporting import fetch_hold_reason, send_report
from airlora.delivery.device.state import InstalledAdapter, SlotName, StateFolder
from airlora.delivery.device.transport import RetryPolicy, Transport, printable
from airlora.delivery.device.trust import fetch_first_root, refresh_trust
from airlora.delivery.protocol import DeviceReport
from airlora.delivery.repository.client import is_initialised
from airlora.delivery.repository.manifest import Manifest
from airlora.errors import AdapterError, AirloraError, NetworkError, SettingsError, StorageError, TrustError

__all__ = ["VisitResult", "visit"]

log = logging.getLogger(__name__)

REPORT_TIMEOUT_S = 5.0
"""Seconds after the deadline that a report may take."""

MIN_CHECK_S = 5.0
"""Seconds that a health check may take even if the deadline leaves less."""

CHECK_SPACING = 10.0
"""Pause between two tests of growing prefixes, relative to the duration of the first one."""

NO_RELEASE = "nothing has been released"
"""Note of a visit to a repository without a release."""


@dataclass
class VisitResult:
    """Result of a visit.

    Args:
        version: Version of the release that the device runs. None if it runs none.
        bytes_fetched: Bytes of the stream that were downloaded.
        bytes_reused: Bytes of the stream that were on the device before.
        metadata_bytes: Bytes of the metadata that were downloaded.
        num_segments: Number of segments of the running adapter.
        complete: Whether the device runs the complete stream of its release.
        slot: Slot of the running adapter. None if there is none.
        accuracy: Accuracy that the manifest promises for the running adapter, 0 to 1. None if it was not measured.
        probed: Accuracy that an `AccuracyProbe` measured. None without a probe or an installation.
        first_usable_s: Seconds until the new release was first installed. None if it was not.
        seconds: Duration of the visit in seconds.
        note: Outcome in a few words.
        error: Error that ended the visit. The device still runs what it ran before or what was installed until then.
    """

    version: int | None = None
    bytes_fetched: int = 0
    bytes_reused: int = 0
    metadata_bytes: int = 0
    num_segments: int = 0
    complete: bool = False
    slot: SlotName | None = None
    accuracy: float | None = None
    probed: float | None = None
    first_usable_s: float | None = None
    seconds: float = 0.0
    note: str = ""
    error: AirloraError | None = None


def visit(folder: StateFolder, config: AgentConfig, transport: Transport, *, seed: int | None = None) -> VisitResult:
    """Visit a repository and return the result, which contains errors of network, trust and storage.

    Args:
        folder: State folder of the device.
        config: Configuration of the agent.
        transport: Transport to the repository. Its deadline is that of the visit.
        seed: Seed of the generator of the waits between attempts. None draws a random seed.

    Raises:
        SettingsError: Another agent uses the folder, or `config` does not fit it.
        StorageError: The state cannot be read.
    """
    began_s = transport.monitor.clock.now_s()
    error: AirloraError | None = None
    try:
        transport.prepare()
    except (NetworkError, TrustError) as failed:
        error = failed
    with folder.locked():
        result = _Visitor(folder, config, transport, random.Random(seed), began_s).run(error)
    log.info("visit ended after %.1f s: %s", result.seconds, printable(result.error or result.note or "no error"))
    return result


class _RefusedError(Exception):
    """A health check refused a release."""


class _Visitor:
    def __init__(
        self, folder: StateFolder, config: AgentConfig, transport: Transport, generator: random.Random, began_s: float
    ) -> None:
        self._folder, self._config, self._transport, self._began_s = folder, config, transport, began_s
        self._monitor = transport.monitor
        self._retries = RetryPolicy(self._monitor, generator)
        self._result, self._bytes_before = VisitResult(), self._monitor.num_bytes
        self._is_refused = self._is_undecided = self._is_out_of_time = False
        self._next_check_s = float("-inf")
        self._failed_check = ""
        self._state = folder.load()

    def run(self, error: AirloraError | None) -> VisitResult:
        result = self._result
        try:
            if error is not None:
                raise error
            manifest = self._refresh()
            result.metadata_bytes = self._monitor.num_bytes - self._bytes_before
            if manifest is None:
                result.note = NO_RELEASE
            elif self._select(manifest):
                self._download(manifest)
        except (NetworkError, TrustError, StorageError, AdapterError) as failed:
            result.metadata_bytes = result.metadata_bytes or self._monitor.num_bytes - self._bytes_before
            result.error = failed
        except OSError as failed:
            result.error = StorageError(f"{self._folder.folder}: {(failed.strerror or str(failed)).lower()}")
        except _RefusedError as refused:
            result.note, self._is_refused = str(refused), True
        result.note = result.note or self._failed_check
        running = self._state.running
        if running is not None:
            result.version, result.slot = running.version, self._state.active
            result.num_segments, result.complete = running.num_segments, running.is_complete
            result.accuracy = running.accuracy
        elif result.error is None and result.note != NO_RELEASE:
            why = result.note or "the wanted prefix is too short for an adapter"
            result.error = NetworkError(f"{self._config.url}: no adapter to run: {why}")
        result.seconds = self._monitor.clock.now_s() - self._began_s
        if self._config.device is not None:
            self._send_reports(self._config.device)
        return result

    def _send_reports(self, device: str) -> None:
        """Report the visit, after the report of an earlier failure that no server has accepted yet."""
        report, untold = self._report(), self._state.untold
        # A visit that used up its time is reported too.
        self._monitor.end_s = max(self._monitor.end_s, self._monitor.clock.now_s() + REPORT_TIMEOUT_S)
        if untold is not None and send_report(self._transport, self._config.url, device, untold):
            untold = None
        if not send_report(self._transport, self._config.url, device, report) and self._is_refused:
            # A rollout stops because of failures, so they must arrive.
            untold = report
        if untold != self._state.untold:
            self._state.untold = untold
            try:
                self._folder.save(self._state)
            except StorageError as error:
                self._result.error = self._result.error or error

    def _report(self) -> dict[str, Any]:
        result, end_s = self._result, self._monitor.end_s
        return DeviceReport(
            version=result.version,
            wanted_version=self._state.newest_version or None,
            wanted_stream=self._state.newest_digest,
            bytes_fetched=result.bytes_fetched,
            bytes_reused=result.bytes_reused,
            seconds=result.seconds,
            first_usable_s=result.first_usable_s,
            complete=result.complete,
            accuracy=result.accuracy if result.probed is None else result.probed,
            rate_bps=self._monitor.rate_bps,
            deadline_s=None if end_s == float("inf") else max(0.0, end_s - self._began_s),
            failed=self._is_refused,
            note=printable(result.error or result.note),
        ).model_dump()

    def _refresh(self) -> Manifest | None:
        """Return the newest manifest after it has been verified. None if nothing has been released."""
        config, state, trust = self._config, self._state, self._folder.trust
        is_used = state.running is not None or state.newest_version > 0
        if state.newest_version and state.tenant != config.tenant:
            raise SettingsError.of("tenant", config.tenant, f"{state.tenant}, the tenant of {self._folder.folder}")
        root = config.root
        if root is None and not is_initialised(trust):
            if is_used:
                raise TrustError(
                    f"No trusted root metadata in {trust}. Pass `--root 1.root.json` from the repository's operator."
                )
            root = fetch_first_root(config.url, self._transport, self._retries)
            self._folder.save(state, "trusted the first root unseen", url=config.url)
        manifest = refresh_trust(trust, config.url, self._transport, self._retries, root=root, tenant=config.tenant)
        if manifest is None:
            return None
        verify_manifest(manifest, state, config)
        if manifest.version > state.newest_version:
            state.newest_version, state.newest_digest = manifest.version, manifest.stream.digest
            state.tenant = config.tenant
            self._folder.save(state, "saw", version=manifest.version)
        return manifest

    def _select(self, manifest: Manifest) -> bool:
        """Return whether to download a release; otherwise the note of the result says why not."""
        result, config, running = self._result, self._config, self._state.running
        digest = manifest.stream.digest
        result.note = reason_to_skip(manifest, self._state) or ""
        if running is not None and running.digest == digest and digest not in self._state.bad:
            if running.version != manifest.version:
                # The same stream was released again under a newer version.
                running.version = manifest.version
                self._folder.save(self._state, "renumbered", version=manifest.version)
            result.bytes_reused = running.num_bytes if running.is_complete else 0
        if not result.note and config.device is not None:
            reason = fetch_hold_reason(self._transport, self._retries, config.url, config.device, manifest)
            result.note = reason or ""
        return not result.note

    def _download(self, manifest: Manifest) -> None:
        entry, result = manifest.stream, self._result
        self._folder.drop_partials(keep=entry.digest)
        partial = PartialStream(self._folder.partial_path(entry.digest), entry)
        self._reuse_slot(partial)
        result.bytes_reused = partial.num_bytes
        wanted = target_bytes(manifest, self._config.target)
        text = "release %d: downloading up to byte %d of %d, resuming at byte %d"
        log.info(text, manifest.version, wanted, entry.total_bytes, partial.num_bytes)
        self._test(partial, manifest)
        try:
            fetch_stream(
                self._transport,
                f"{self._config.url.rstrip('/')}/{entry.path}",
                partial,
                self._retries,
                choose_end=lambda partial, num_pending: self._choose_end(partial, num_pending, wanted),
                on_segment=lambda partial: self._test(partial, manifest),
            )
        except (NetworkError, TrustError) as error:
            self._test(partial, manifest, is_last=True)
            if isinstance(error, TrustError) or self._monitor.left_s > 0:
                raise
            result.note = "deadline reached"
        finally:
            result.bytes_fetched = partial.num_bytes - result.bytes_reused
        self._test(partial, manifest, is_last=True, is_all_wanted=not self._is_out_of_time)
        if partial.is_complete and not self._is_undecided:
            partial.path.unlink(missing_ok=True)

    def _choose_end(self, partial: PartialStream, num_pending: int, wanted: int) -> int:
        """Return the byte at which the download ends: `wanted`, or here if the next segment would arrive too late."""
        segment_range = partial.next_range
        if segment_range is None or is_in_time(
            segment_range[1] - segment_range[0] - num_pending, self._monitor.rate_bps, self._monitor.left_s
        ):
            return wanted
        self._result.note, self._is_out_of_time = "the next segment would arrive after the deadline", True
        return partial.num_bytes

    def _reuse_slot(self, partial: PartialStream) -> None:
        """Copy the segments of the running adapter into a partial download that lacks them."""
        active = self._state.active
        if active is None or self._state.slots[active].digest != partial.digest:
            return
        data, _ = self._folder.read_slot(active)
        while (segment_range := partial.next_range) is not None and segment_range[1] <= len(data):
            partial.feed(data[segment_range[0] : segment_range[1]])

    def _test(
        self, partial: PartialStream, manifest: Manifest, *, is_last: bool = False, is_all_wanted: bool = False
    ) -> None:
        """Install the downloaded prefix if it is an improvement and passes the health checks.

        Args:
            partial: Verified bytes of the stream.
            manifest: Manifest of the release.
            is_last: Whether nothing more is downloaded in this visit.
            is_all_wanted: Whether the prefix is all that the device wants of the stream.

        Raises:
            _RefusedError: The complete stream, or all that is wanted of it, failed a check.
        """
        state, is_complete = self._state, partial.is_complete
        running = state.running
        is_due = is_last or (
            not self._is_undecided and (is_complete or self._monitor.clock.now_s() >= self._next_check_s)
        )
        if partial.reader is None or partial.digest in state.bad or not is_due:
            return
        if not is_improvement(manifest, partial.num_bytes, running, is_complete=is_complete, is_last=is_last):
            return
        decoded = partial.reader.result()
        if parameter_check(partial.path, decoded) is not None and not is_complete:
            return
        is_longer = running is not None and running.digest == partial.digest
        slot = state.active if is_longer and state.active is not None else state.idle_slot
        path = self._folder.write_candidate(slot, partial.prefix())
        try:
            reason = self._check(path, decoded)
        except HealthUnknownError as error:
            log.info("release %d: undecided: %s", manifest.version, printable(error))
            self._is_undecided, self._result.note = True, str(error)
            path.unlink(missing_ok=True)
            return
        if reason is not None:
            path.unlink(missing_ok=True)
            if not (is_complete or is_all_wanted):
                # The first components of a good release may be inaccurate.
                self._failed_check = f"{partial.num_bytes} bytes of release {manifest.version} fail a check: {reason}"
                log.info("%s", printable(self._failed_check))
                return
            state.refuse(partial.digest)
            self._folder.save(state, "refused", version=manifest.version, reason=reason)
            raise _RefusedError(f"release {manifest.version} was refused: {reason}")
        self._failed_check = ""
        self._folder.accept_candidate(slot)
        state.slots[slot] = InstalledAdapter(
            version=manifest.version,
            digest=decoded.digest,
            num_bytes=decoded.bytes_used,
            num_segments=decoded.num_segments,
            is_complete=decoded.is_complete,
            accuracy=promised_accuracy(manifest, decoded.bytes_used),
        )
        state.active = slot
        event = "completed" if decoded.is_complete else "grew" if is_longer else "installed"
        self._folder.save(state, event, version=manifest.version, num_bytes=decoded.bytes_used, slot=slot)
        if self._result.first_usable_s is None:
            self._result.first_usable_s = self._monitor.clock.now_s() - self._began_s

    def _check(self, path: Path, decoded: DecodedStream) -> str | None:
        """Return why the candidate fails a health check, or None; raise `HealthUnknownError` if a check cannot tell."""
        began_s = self._monitor.clock.now_s()
        try:
            for check in (parameter_check, *self._config.checks):
                reason = check(path, decoded, max(MIN_CHECK_S, self._monitor.left_s))
                if reason is not None:
                    return reason
        finally:
            # Slow checks take at most a tenth of the time of a download.
            now_s = self._monitor.clock.now_s()
            self._next_check_s = now_s + CHECK_SPACING * (now_s - began_s)
        probes = [check.accuracy for check in self._config.checks if isinstance(check, AccuracyProbe)]
        self._result.probed = probes[-1] if probes else None
        return None
