"""A test that needs a server, a browser or LaTeX skips with its reason; under LENSBENCH_NO_SKIP such a skip fails."""

import os

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.skipped and os.environ.get("LENSBENCH_NO_SKIP") and not item.get_closest_marker("gpu"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{reason}: skipped, though this machine was set up so that nothing need be"
    return report
