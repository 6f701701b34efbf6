"""One visit of a device to its repository: refresh trust, take as much of the newest adapter as is wanted, install."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from airlora.codec import DecodedStream
from airlora.delivery.device.decide import accuracy_at, wanted_bytes
from airlora.delivery.device.download import PartialStream, fetch_stream
from airlora.delivery.device.health import AccuracyProbe, HealthUnknownError, numbers_check
from airlora.delivery.device.link import HttpLink, Patience
from airlora.delivery.device.plan import AgentPlan, Visit
from airlora.delivery.device.reporting import may_proceed, send_report
from airlora.delivery.device.state import MAX_BAD, Installed, StateFolder
from airlora.delivery.device.trust import first_root, refresh_trust
from airlora.delivery.repository.client import is_initialised
from airlora.delivery.repository.manifest import Manifest
from airlora.errors import AdapterError, NetworkError, SettingsError, StorageError, TrustError

__all__ = ["visit"]


REPORT_S = 5.0
"""How long after the deadline a report may take."""

CHECK_S = 5.0
"""How long a check may take where the deadline leaves less: what came by then is still to be installed."""

CHECK_SPACING = 10.0
"""Times that checks took, before a prefix that is longer is checked again."""


def visit(folder: StateFolder, plan: AgentPlan, link: HttpLink, *, seed: int | None = None) -> Visit:
    """Return what came of one visit; errors of the link, of trust and of the disk are in it, not raised.

    Args:
        folder: What the device keeps.
        plan: What it is to do.
        link: The server, with the deadline.
        seed: Of the waits between attempts; None: of the system.

    Raises:
        SettingsError: Another agent is at work, or the plan cannot be.
    """
    began_s, failed = link.clock.now_s(), None
    try:
        link.prepare()
    except NetworkError as error:
        failed = error
    with folder.locked():
        return _Visitor(folder, plan, link, Patience(link, random.Random(seed)), began_s).run(failed)


class _UnhealthyError(Exception):
    """A candidate was refused."""


class _Visitor:
    def __init__(
        self, folder: StateFolder, plan: AgentPlan, link: HttpLink, patience: Patience, began_s: float | None = None
    ) -> None:
        self._folder, self._plan, self._link, self._patience = folder, plan, link, patience
        self._began_s = link.clock.now_s() if began_s is None else began_s
        self._visit, self._bytes_before = Visit(), link.num_bytes
        self._is_refused = self._is_unknown = self._is_cut_short = False
        self._next_check_s = float("-inf")
        self._shortfall = ""
        self._state = folder.load()

    def run(self, failed: NetworkError | None) -> Visit:
        visit, link = self._visit, self._link
        try:
            if failed is not None:
                raise failed
            manifest = self._trusted()
            visit.metadata_bytes = link.num_bytes - self._bytes_before
            if manifest is None:
                visit.note = "nothing has been released"
            else:
                self._take(manifest)
        except (NetworkError, TrustError, StorageError, AdapterError) as error:
            visit.metadata_bytes = visit.metadata_bytes or link.num_bytes - self._bytes_before
            visit.error = error
        except OSError as error:
            visit.error = StorageError(f"{self._folder.folder}: {(error.strerror or str(error)).lower()}")
        except _UnhealthyError as refused:
            visit.note, self._is_refused = str(refused), True
        visit.note = visit.note or self._shortfall
        running = self._state.running
        if running is not None:
            visit.version, visit.slot = running.version, self._state.active
            visit.num_segments, visit.complete, visit.accuracy = (
                running.num_segments,
                running.is_complete,
                running.accuracy,
            )
        elif visit.error is None and visit.note != "nothing has been released":
            why = visit.note or "what was wanted of it ended before the adapter could be used"
            visit.error = NetworkError(f"{self._plan.url}: no adapter to run: {why}")
        visit.seconds = link.clock.now_s() - self._began_s
        if self._plan.device is not None:
            self._tell(self._plan.device)
        return visit

    def _tell(self, device: str) -> None:
        """Report; what failed is told again on the next visit if nobody took it, for a rollout stops because of it."""
        link, report, untold = self._link, self._report(), self._state.untold
        # A visit that used up its time has something to tell too.
        link.end_s = max(link.end_s, link.clock.now_s() + REPORT_S)
        if untold is not None and send_report(link, self._plan.url, device, untold):
            untold = None
        if not send_report(link, self._plan.url, device, report) and report["failed"]:
            untold = report
        if untold != self._state.untold:
            self._state.untold = untold
            try:
                self._folder.save(self._state)
            except StorageError as error:
                self._visit.error = self._visit.error or error

    def _report(self) -> dict[str, Any]:
        visit = self._visit
        return {
            "version": visit.version,
            "wanted_version": self._state.newest_version or None,
            "wanted_stream": self._state.newest_digest,
            "bytes_fetched": visit.bytes_fetched,
            "bytes_reused": visit.bytes_reused,
            "seconds": visit.seconds,
            "first_usable_s": visit.first_usable_s,
            "complete": visit.complete,
            "accuracy": visit.accuracy if visit.probed is None else visit.probed,
            "rate_bps": self._link.rate_bps,
            "deadline_s": None if self._link.end_s == float("inf") else max(0.0, self._link.end_s - self._began_s),
            "failed": self._is_refused,
            "note": str(visit.error or visit.note)[:500],
        }

    def _trusted(self) -> Manifest | None:
        """Return the newest manifest, once it is clear that it is newer than all before."""
        plan, state = self._plan, self._state
        is_new = not is_initialised(self._folder.trust)
        if state.newest_version and state.tenant != plan.tenant:
            raise SettingsError.of("tenant", plan.tenant, f"{state.tenant}, as in {self._folder.folder} from the first")
        root = plan.root
        if root is None and is_new:
            if state.running is not None or state.newest_version:
                raise TrustError(
                    f"{self._folder.trust}: the root of trust that this device had is gone; give it again by --root"
                )
            root = first_root(plan.url, self._link, self._patience)
            self._folder.save(state, "trusted the first root unseen", url=plan.url)
        manifest = refresh_trust(
            self._folder.trust, plan.url, self._link, self._patience, root=root, tenant=plan.tenant
        )
        if manifest is None:
            return None
        version, digest = manifest.version, manifest.stream.digest
        if version < state.newest_version or (version == state.newest_version and digest != state.newest_digest):
            raise TrustError.of(
                "version of the release", version, f"above {state.newest_version}, the newest that was seen"
            )
        if plan.base_fingerprint not in (None, manifest.base_fingerprint):
            raise AdapterError(
                f"release {version}: made for the base model {manifest.base_fingerprint[:12]}, the device has "
                f"{(plan.base_fingerprint or '')[:12]}"
            )
        if version > state.newest_version:
            state.newest_version, state.newest_digest, state.tenant = version, digest, plan.tenant
            self._folder.save(state, "saw", version=version)
        return manifest

    def _take(self, manifest: Manifest) -> None:
        entry, visit, running = manifest.stream, self._visit, self._state.running
        if entry.digest in self._state.bad:
            visit.note = f"release {manifest.version} was refused before"
            return
        if running is not None and running.digest == entry.digest and running.version != manifest.version:
            # The same bytes again, under a newer number.
            running.version = manifest.version
            self._folder.save(self._state, "renumbered", version=manifest.version)
        if running is not None and running.digest == entry.digest and running.is_complete:
            visit.bytes_reused = running.num_bytes
            visit.note = f"release {manifest.version} is the newest"
            return
        if self._plan.device is not None:
            why = may_proceed(
                self._link,
                self._patience,
                self._plan.url,
                self._plan.device,
                version=manifest.version,
                stream=entry.digest,
            )
            if why is not None:
                visit.note = why
                return
        self._drop_other_parts(entry.digest)
        part = PartialStream(self._folder.part_path(entry.digest), entry)
        self._seed(part)
        visit.bytes_reused = part.num_bytes
        wanted = wanted_bytes(manifest, self._plan.wish)
        self._install(part, manifest, is_last=False)
        try:
            fetch_stream(
                self._link,
                f"{self._plan.url.rstrip('/')}/{entry.path}",
                part,
                self._patience,
                wants_more=lambda part, num_pending: self._in_time(part, num_pending, wanted),
                on_piece=lambda part: self._install(part, manifest, is_last=False),
            )
        except (NetworkError, TrustError) as error:
            self._install(part, manifest, is_last=True)
            if isinstance(error, TrustError) or self._link.left_s > 0:
                raise
            visit.note = "the deadline has come"
        finally:
            visit.bytes_fetched = part.num_bytes - visit.bytes_reused
        self._install(part, manifest, is_last=True, is_all_wanted=not self._is_cut_short)
        if part.is_complete and not self._is_unknown:
            part.path.unlink(missing_ok=True)

    def _in_time(self, part: PartialStream, num_pending: int, wanted: int) -> int:
        """Return up to which byte to go on: `wanted`, unless the next piece would come after the deadline."""
        place, rate_bps = part.next_range, self._link.rate_bps
        if place is None or rate_bps is None:
            return wanted
        if 8 * (place[1] - place[0] - num_pending) <= rate_bps * self._link.left_s:
            return wanted
        self._visit.note, self._is_cut_short = "the next piece would come after the deadline", True
        return part.num_bytes

    def _seed(self, part: PartialStream) -> None:
        """Take over from the slot what it holds of the same stream, should the part be gone."""
        active = self._state.active
        if active is None or self._state.slots[active].digest != part.digest:
            return
        data, _ = self._folder.read_slot(active)
        while (place := part.next_range) is not None and place[1] <= len(data):
            part.feed(data[place[0] : place[1]])

    def _install(self, part: PartialStream, manifest: Manifest, *, is_last: bool, is_all_wanted: bool = False) -> None:
        """Let the device run what has come, if it is worth it; raises `_UnhealthyError` if all of it fails a check."""
        if part.reader is None or part.digest in self._state.bad or (self._is_unknown and not is_last):
            return
        if not self._is_worth_it(part, manifest, is_last=is_last):
            return
        if not (is_last or part.is_complete) and self._link.clock.now_s() < self._next_check_s:
            return
        decoded = part.reader.result()
        if numbers_check(part.path, decoded) is not None and not part.is_complete:
            return
        running, active = self._state.running, self._state.active
        is_longer = running is not None and running.digest == part.digest
        slot = active if is_longer and active is not None else self._state.idle_slot
        path = self._folder.write_candidate(slot, part.prefix())
        try:
            reason = self._reason_against(path, decoded)
        except HealthUnknownError as error:
            self._is_unknown, self._visit.note = True, str(error)
            path.unlink(missing_ok=True)
            return
        if reason is not None:
            path.unlink(missing_ok=True)
            if not (part.is_complete or is_all_wanted):
                # The first components of a good release may well be worth little.
                self._shortfall = f"{part.num_bytes} bytes of release {manifest.version} do not do: {reason}"
                return
            self._state.bad = [*self._state.bad, part.digest][-MAX_BAD:]
            self._folder.save(self._state, "refused", version=manifest.version, reason=reason)
            raise _UnhealthyError(f"release {manifest.version} was refused: {reason}")
        self._shortfall = ""
        self._folder.accept_candidate(slot)
        self._state.slots[slot] = _installed(manifest, decoded)
        self._state.active = slot
        event = "completed" if decoded.is_complete else "grew" if is_longer else "installed"
        self._folder.save(self._state, event, version=manifest.version, num_bytes=decoded.bytes_used, slot=slot)
        if self._visit.first_usable_s is None:
            self._visit.first_usable_s = self._link.clock.now_s() - self._began_s

    def _reason_against(self, path: Path, decoded: DecodedStream) -> str | None:
        """Return what the checks have against a candidate, or that one of them cannot tell."""
        began_s = self._link.clock.now_s()
        try:
            for check in (numbers_check, *self._plan.checks):
                reason = check(path, decoded, max(CHECK_S, self._link.left_s))
                if reason is not None:
                    return reason
        finally:
            # Checks that take long are not to hold up what they wait for.
            now_s = self._link.clock.now_s()
            self._next_check_s = now_s + CHECK_SPACING * (now_s - began_s)
        probes = [check.accuracy for check in self._plan.checks if isinstance(check, AccuracyProbe)]
        self._visit.probed = probes[-1] if probes else None
        return None

    def _is_worth_it(self, part: PartialStream, manifest: Manifest, *, is_last: bool) -> bool:
        """Whether what has come betters what runs: all of a new release does, of a part only its measured worth."""
        running = self._state.running
        if running is None:
            return True
        promised = accuracy_at(manifest, part.num_bytes)
        if running.digest == part.digest:
            if part.num_bytes <= running.num_bytes:
                return False
            better = promised is not None and (running.accuracy is None or promised > running.accuracy)
            return is_last or part.is_complete or better
        return part.is_complete or (
            promised is not None and running.accuracy is not None and promised > running.accuracy
        )

    def _drop_other_parts(self, digest: str) -> None:
        for path in self._folder.parts.iterdir():
            if path.name != digest:
                path.unlink(missing_ok=True)


def _installed(manifest: Manifest, decoded: DecodedStream) -> Installed:
    return Installed(
        version=manifest.version,
        digest=decoded.digest,
        num_bytes=decoded.bytes_used,
        num_segments=decoded.num_segments,
        is_complete=decoded.is_complete,
        accuracy=accuracy_at(manifest, decoded.bytes_used),
    )
