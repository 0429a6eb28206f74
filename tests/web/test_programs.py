"""The pure programs of the page, in Node: `web/test`."""

from __future__ import annotations

import subprocess

import pytest
from support.browser_pages import WEB
from support.client_programs import need


@pytest.mark.timeout(300)  # The programs compute for seconds. On a loaded machine these become minutes.
def test_typescript_programs_of_the_web_page_pass_their_own_tests() -> None:
    need("node")
    if not (WEB / "node_modules" / "esbuild").is_dir():
        pytest.skip("needs the packages of web/: run 'poe web'")
    # The messages of the wire are not committed, and a fresh checkout does not have them.
    subprocess.run(["node", "generate.mjs"], cwd=WEB, check=True)
    ran = subprocess.run(["node", "test/run.mjs"], cwd=WEB, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
