"""Files of the repository that are pages of the site too, so that nothing is written twice.

Links in them and in the pages of docs/ are relative to the file in the repository, so that they work there too. On the
site a link to a page points at the page, and a link to a module into the API reference; a link to a file without a page
becomes its text. The pages of the API reference are made here too, one for each package, so that no module is
forgotten; each needs its line in the nav of mkdocs.yml, without which a strict build fails.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
# File in the repository -> page in the site. What lies in docs/ is a page under its own name.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
}
LINK = re.compile(r"(?<!!)\[(?P<text>[^\[\]]*)\]\((?P<target>[^()\s]+)\)")
IMAGE = re.compile(r"!\[(?P<text>[^\[\]]*)\]\((?P<target>[^()\s]+)\)")
# An indented block or a fence, where brackets are code.
CODE = re.compile(r"(^```.*?^```$|^ {4}.*?$)", re.MULTILINE | re.DOTALL)


@event_priority(100)  # before mkdocs-jupyter looks for notebooks
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds these pages, the API reference, and the notebooks as they are."""
    for source, page in PAGES.items():
        text = relink((ROOT / source).read_text(encoding="utf-8"), source)
        files.append(File.generated(config, page, content=text))
    for name in ("jaxnas", *packages()):
        files.append(File.generated(config, f"api/{name}.md", content=reference(name)))
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        # Not `generated`: mkdocs-jupyter looks in the source folder.
        path = f"notebooks/{notebook.name}"
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links of the pages in docs/ to the rest of the repository, as the site needs them."""
    del config, files
    source = f"docs/{page.file.src_uri}"
    return relink(markdown, source) if (ROOT / source).is_file() else markdown


def relink(text: str, source: str) -> str:
    """The Markdown text of the file `source` of the repository, with its links as the site needs them.

    A link in docs/ may also be written as the site needs it.
    """
    here = posixpath.dirname(page_of(source) or "")

    def point(match: re.Match) -> str:
        target, _, anchor = match["target"].partition("#")
        if ":" in target or not target:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        page = page_of(path)
        if page is None:
            return match[0] if path.startswith("docs/") else match["text"]
        address = posixpath.relpath(page, here or ".") + (f"#{anchor}" if anchor else "")
        mark = "!" if match[0].startswith("!") else ""
        return f"{mark}[{match['text']}]({address})"

    parts = CODE.split(text)
    parts[::2] = [IMAGE.sub(point, LINK.sub(point, part)) for part in parts[::2]]
    return "".join(parts)


def page_of(path: str) -> str | None:
    """The page, picture or place in the API reference for a path in the repository; None where there is none."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/") and (ROOT / path).is_file():
        return path.removeprefix("docs/")
    if path.startswith("notebooks/") and path.endswith(".ipynb"):
        return path
    if path.startswith("jaxnas/") and (ROOT / path).exists():
        parts = path.removesuffix(".py").split("/")
        package = parts[1] if parts[1] in packages() else "jaxnas"
        return f"api/{package}.md" + (f"#{'.'.join(parts)}" if parts[1:] != [package] else "")
    return None


def packages() -> list[str]:
    """Names of the packages within jaxnas."""
    return sorted(path.parent.name for path in (ROOT / "jaxnas").glob("*/__init__.py"))


def reference(name: str) -> str:
    """The page of a package: what its docstring says, then its modules; "jaxnas" has those that are in no package."""
    folder, dotted = (ROOT / "jaxnas", "jaxnas") if name == "jaxnas" else (ROOT / "jaxnas" / name, f"jaxnas.{name}")
    head = f"# {dotted}\n\n::: {dotted}\n    options: {{show_root_heading: false, members: false}}\n"
    paths = folder.glob("*.py") if name == "jaxnas" else folder.rglob("*.py")
    modules = sorted(path.relative_to(folder).with_suffix("") for path in paths if not path.stem.startswith("_"))
    return head + "".join(f"\n::: {dotted}.{'.'.join(module.parts)}\n" for module in modules)
