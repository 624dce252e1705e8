"""The reference of modules from their docstrings, and links to it wherever a page names one.

`davss/posterior/dps.py` and `davss.posterior.dps` between backticks lead to the module, a dotted
name of a function to that function.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

ROOT = Path(__file__).parents[2]
INTERFACE = """# Python interface

What scripts of your own may rely on. Signals are float tensors (B, T), B recordings of T samples;
`lips` are features (B, K, V, D) of K speakers at 25 frames per second. What you can mend is a
`DavssError` of one line. Two examples that run: [an array](../examples/separate_array.md), [a
sampler of your own](../examples/own_sampler.md).

| name | |
|---|---|
"""
LIKELIHOOD = "davss.posterior.likelihood.reconstruction_loss"
# What scripts of others may rely on, and where it is defined.
PUBLIC = {
    "davss.load_prior": "davss.diffusion.prior.load_prior",
    "davss.Separator": "davss.posterior.separator.Separator",
    "davss.SamplerConfig": "davss.config.SamplerConfig",
    "davss.si_sdr": "davss.evaluation.metrics.si_sdr",
    "davss.DavssError": "davss.errors.DavssError",
    "SpeechPrior": "davss.diffusion.prior.SpeechPrior",
    "NoisePrior": "davss.diffusion.prior.NoisePrior",
    "Separation": "davss.posterior.recordings.Separation",
    "davss.posterior.sample": "davss.posterior.sampling.sample",
    "davss.posterior.Step": "davss.posterior.steps.Step",
    LIKELIHOOD: LIKELIHOOD,
    "davss.networks.NCSNpp": "davss.networks.ncsnpp.NCSNpp",
    "davss.networks.BRAVEn": "davss.networks.braven.BRAVEn",
    "davss.evaluation.metrics.score": "davss.evaluation.metrics.score",
}
# Packages by their pages; what has no page of its own is on that of davss.
PACKAGES = {
    "davss": ROOT / "davss",
    **{
        path.parent.name: path.parent
        for path in sorted(ROOT.glob("davss/*/__init__.py"))
        if path.parent.name != "small"
    },
    "pipelines": ROOT / "pipelines",
    "cluster": ROOT / "cluster",
}
NAME = re.compile(r"(?<!\">)<code>((?:davss|pipelines|cluster)[./][\w./]+)</code>")
BLOCK = re.compile(r"(?:^ {4,}\S.*\n)+", re.MULTILINE)
NUMBER = re.compile(r"( +.*?\S) {2,}(\(\d+\).*)")
SECTION = re.compile(r"docs/method\.md §([\d.]*\d)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages of the modules to the navigation."""
    (part,) = (each["Reference"] for each in config.nav or [] if "Reference" in each)
    pages = [{dotted(folder): f"reference/{name}.md"} for name, folder in PACKAGES.items()]
    part.append({"Modules": pages})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the public interface, and a page for every package."""
    rows = (f"| [`{name}`][{place}] | {summary(place)} |\n" for name, place in PUBLIC.items())
    files.append(File.generated(config, "reference/index.md", content=INTERFACE + "".join(rows)))
    for name, folder in PACKAGES.items():
        modules = "\n".join(f"::: {module}\n" for module in modules_of(folder))
        page = f"# {dotted(folder)}\n\n{modules}"
        files.append(File.generated(config, f"reference/{name}.md", content=page))
    return files


def summary(place: str) -> str:
    """The first paragraph of the docstring of a function or class."""
    module, _, name = place.rpartition(".")
    tree = ast.parse(ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text())
    (node,) = (one for one in tree.body if getattr(one, "name", None) == name)
    return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())


def modules_of(folder: Path) -> list[str]:
    """The modules of a package by their dotted names; of davss those without a page of theirs."""
    paths = folder.glob("*.py") if folder.name == "davss" else folder.rglob("*.py")
    found = {dotted(path) for path in paths if path.name != "__main__.py"}
    return sorted(found | ({"davss.small"} if folder.name == "davss" else set()))


def dotted(path: Path) -> str:
    """The name by which a file or folder is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the numbers of equations first: on a narrow page the ends of lines are out of view."""
    return BLOCK.sub(numbers_first, markdown) if page.file.src_uri == "method.md" else markdown


def numbers_first(block: re.Match[str]) -> str:
    """Indented lines, (17) and what follows it moved from the end to the beginning."""
    lines = block[0].splitlines()
    found = [NUMBER.fullmatch(line) for line in lines]
    if not any(found):
        return block[0]
    margin = min(len(line) - len(line.lstrip()) for line in lines)
    width = max(len(each[2]) for each in found if each) + 2
    rows = (
        f"{each[2]:{width}}{each[1][margin:]}" if each else " " * width + line[margin:]
        for each, line in zip(found, lines, strict=True)
    )
    return "".join(f"{' ' * margin}{row}\n" for row in rows)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Link what is named as code to its reference, and sections of the method to them."""
    html = SECTION.sub(section, html)
    return html if page.file.src_uri.startswith("reference/") else NAME.sub(reference, html)


def section(name: re.Match[str]) -> str:
    """A link to a section of the method by its number."""
    text = (ROOT / "docs/method.md").read_text()
    heading = re.search(rf"^##+ ({re.escape(name[1])}\.? .*)$", text, re.MULTILINE)
    if heading is None:
        raise PluginError(f"{name[0]}: there is no such section")
    return f'<autoref identifier="{slugify(case="lower")(heading[1], "-")}">{name[0]}</autoref>'


def reference(name: re.Match[str]) -> str:
    """The element that mkdocs-autorefs resolves; what is not in the reference stays as it is."""
    path = name[1].removesuffix(".py").replace("/", ".")
    return f'<autoref identifier="{path}" optional>{name[0]}</autoref>'
