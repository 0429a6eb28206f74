"""The configuration of Sphinx. The site needs no network: all fonts, styles and scripts are its own files."""

from __future__ import annotations

from typing import Any

from pygments.lexers.special import TextLexer

project = "Iris"
html_title = "Iris"
root_doc = "index"
extensions = ["myst_parser"]
exclude_patterns = ["files/**"]
suppress_warnings: list[str] = []

# Headings get the anchors that GitHub gives them, because the pages are read there too.
myst_heading_anchors = 4

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["style.css"]
html_js_files = ["copy.js"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_copyright = False
html_last_updated_fmt = None
html_theme_options = {
    "top_of_page_buttons": [],
    "light_css_variables": {"color-brand-primary": "#3a4fc4", "color-brand-content": "#3a4fc4"},
    "dark_css_variables": {"color-brand-primary": "#9db0ff", "color-brand-content": "#9db0ff"},
}
highlight_language = "text"
pygments_style = "friendly"
pygments_dark_style = "github-dark"


def setup(app: Any) -> None:
    """Add names of languages that Pygments does not know."""
    app.add_lexer("haproxy", TextLexer)
