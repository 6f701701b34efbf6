"""The HTTP server of releases: files, reports, rollout, dashboard."""
