"""Files outside docs/ as pages of the site, and links that lead to them.

Pages link to files of the repository as they lie there, so that they can be read without the site;
here such a link becomes one to the page that the file is, or to the reference of a module.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "start.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "licence.md",
    "CITATION.cff": "citation.md",
    "davss/small/MODEL_CARD.md": "cards/priors.md",
    "davss/media/models/README.md": "cards/faces.md",
    "pipelines/demo_data/ATTRIBUTION.md": "cards/recordings.md",
    "examples/separate.ipynb": "examples/separate.md",
    "examples/separate_array.py": "examples/separate_array.md",
    "examples/own_sampler.py": "examples/own_sampler.md",
    "examples/read_shards.py": "examples/read_shards.md",
}
LANGUAGES = {".py": "python", ".cff": "yaml", "": "text"}
SOURCES = {page: source for source, page in PAGES.items()}
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(\[(?:[^\[\]]|\[[^\]]*\])*\])\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every file of PAGES."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=as_markdown(ROOT / source)))
    return files


def as_markdown(path: Path) -> str:
    """A file as the text of a page."""
    text = path.read_text()
    if path.suffix == ".md":
        return text
    if path.suffix == ".ipynb":
        return "\n\n".join(cell_as_markdown(cell) for cell in json.loads(text)["cells"])
    return f"# {path.name}\n\n```{LANGUAGES[path.suffix]}\n{text}```\n"


def cell_as_markdown(cell: dict[str, Any]) -> str:
    """A cell of a notebook, without its outputs."""
    text = "".join(cell["source"])
    return text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links of the site."""
    here = page.file.src_uri
    if here.startswith("reference/") or here == "parameters.md":
        return markdown  # made of the sources, without links to files
    origin = SOURCES.get(here, f"docs/{here}")
    parts = FENCE.split(markdown)
    parts[::2] = [LINK.sub(lambda link: site_link(link, here, origin), part) for part in parts[::2]]
    return "".join(parts)


def site_link(link: re.Match[str], here: str, origin: str) -> str:
    """The link `link` of the file `origin`, for the page `here`."""
    text, target, anchor = link[1], link[2], link[3] or ""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
    if not (ROOT / path).exists():
        raise PluginError(f"{origin}: links to {target}, which is not there")
    if path in PAGES:
        page = PAGES[path]
    elif path.startswith("docs/"):
        page = path.removeprefix("docs/")
    elif path.endswith(".py"):
        return f"{text}[{path.removesuffix('.py').replace('/', '.')}]"
    else:
        raise PluginError(
            f"{origin}: links to {target}, which docs/hooks/elsewhere.py has no page for"
        )
    return f"{text}({posixpath.relpath(page, posixpath.dirname(here) or '.')}{anchor})"
