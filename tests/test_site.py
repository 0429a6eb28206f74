"""The web site of the documentation: it builds without errors, works without a network, and refuses broken pages."""

from __future__ import annotations

import importlib.util
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from docsite.site.build import build_site

ROOT = Path(__file__).parents[1]
# Tags that load a file when the page is shown, and the attribute with the address of the file.
LOADING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("furo") is None, reason="needs the dependency group docs: uv sync --group docs"
    ),
    pytest.mark.timeout(400),  # The build computes for 10 s, which a busy machine makes minutes.
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built from this checkout."""
    folder = tmp_path_factory.mktemp("site")
    assert build_site(ROOT, folder / "source", folder / "output") == 0
    return folder / "output"


class Loaded(HTMLParser):
    """Collects the addresses of the files that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the address in a tag. `HTMLParser` calls this method."""
        values = dict(attrs)
        if tag in LOADING and (address := values.get(LOADING[tag])):
            self.addresses.append(address)


def test_site_has_each_documentation_page(site: Path) -> None:
    pages = {page.relative_to(ROOT / "docs").with_suffix(".html") for page in (ROOT / "docs").rglob("*.md")}
    pages = (pages - {Path("README.html")}) | {Path("index.html"), Path("contributing.html"), Path("changelog.html")}
    assert [str(page) for page in sorted(pages) if not (site / page).exists()] == []


def test_site_loads_only_its_own_files(site: Path) -> None:
    pages = [page for page in site.rglob("*.html") if "_downloads" not in page.parts]  # Downloads are not shown.
    assert len(pages) > 50
    for page in pages:
        loaded = Loaded()
        loaded.feed(page.read_text())
        assert loaded.addresses, page
        for address in loaded.addresses:
            file = (page.parent / re.sub(r"[?#].*", "", address)).resolve()
            assert address == "#" or file.is_file(), f"{page.name}: {address}"
            assert file.is_relative_to(site.resolve()), f"{page.name}: {address}"
    for style in site.rglob("*.css"):
        foreign = re.findall(r"""(?:@import|url\()\s*["']?(?:https?:)?//[^)"']+""", style.read_text())
        assert foreign == [], style.name


def test_site_works_in_a_browser_without_a_server(site: Path) -> None:
    pytest.importorskip("playwright", reason="needs the group browser: run 'uv sync'")
    from support.browser_pages import running_browser

    requests: list[str] = []
    with running_browser() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"file://{site}/search.html?q=backfill")
        found = page.locator("ul.search li a").first
        found.wait_for()
        assert page.locator("ul.search li a", has_text="Scheduling").count() >= 1
        for name in ("index", "reference/cli", "reference/python-api", "how-to/come-from-another-tool"):
            page.goto(f"file://{site}/{name}.html")
            assert page.locator("button.copy").count() == page.locator("div.highlight").count()
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, f"{name} is wider than a phone"
    assert requests
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []


def test_broken_link_missing_anchor_and_page_outside_of_the_index_fail_the_build(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "README.md").write_text("# Start\n\n## Pages\n\n* [One](one.md)\n* [Gone](gone.md)\n")
    (docs / "one.md").write_text("# One\n\nSee [the start](README.md#pages) and [nothing](#nothing).\n")
    (docs / "lost.md").write_text("# Lost\n")
    assert build_site(tmp_path, tmp_path / "source", tmp_path / "output") != 0
    errors = capfd.readouterr().err
    assert "gone" in errors
    assert re.search(r"one\.md.*'nothing'", errors)
    assert re.search(r"lost\.md.*not included|lost\.md.*isn't included", errors)
    assert "'pages'" not in errors
