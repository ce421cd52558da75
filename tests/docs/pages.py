"""What the documents consist of: pages, fenced blocks, and the command lines that a reader may type."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMENTED = sorted(
    [*ROOT.glob("clusters/*"), *ROOT.glob("search_spaces/*.yaml"), *ROOT.glob("ssl_core/recipes/*/*.yaml")]
)
"""Files whose opening comments show commands."""
FENCED = re.compile(r"(?:^<!-- test: (?P<note>.*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```", re.M | re.S)
PROGRAM = re.compile(r"(?:strata|python|pip|pytest|ray|clusters/\S+\.sh)(?: |$)")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: what stands behind the fence; "" for what a program prints.
        note: of the comment `<!-- test: OLD → NEW; OLD → NEW -->` above it: what its test writes in another way.
    """

    page: Path
    line: int
    language: str
    text: str
    note: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def short(self) -> str:
        """Its text as the test runs it.

        Raises:
            ValueError: the note speaks of what is not there.
        """
        text = self.text
        for change in filter(None, self.note.split("; ")):
            old, arrow, new = change.partition(" → ")
            if not arrow or old not in text:
                raise ValueError(f"{self}: the comment above says {change!r}, and there is no {old!r}")
            text = text.replace(old, new)
        return text


def blocks(*languages: str) -> list[Block]:
    """The fenced blocks of all pages in these languages."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in FENCED.finditer(text):
            if match["language"] in languages:
                line = text.count("\n", 0, match.start("text")) + 1
                found.append(Block(page, line, match["language"], match["text"], match["note"] or ""))
    return found


def _joined(text: str) -> Iterator[str]:
    r"""Lines, those that end with `\` with what follows them, without what a comment sign opens."""
    for line in re.sub(r"\\\n[# ]*|\n *(?=--output)", " ", text).splitlines():  # a YAML's folded text too
        yield line.strip(" #")


def commands() -> dict[str, str]:
    """Every command line in the documents, and where it first stands.

    All lines of `sh` blocks; in running text, code that begins with a program's name; in comments of recipes, spaces
    and clusters, lines that run `strata`.
    """
    found: dict[str, str] = {}
    for block in blocks("sh"):
        for line in filter(None, _joined(block.text)):
            found.setdefault(line, str(block))
    for page in PAGES:
        text = FENCED.sub("", page.read_text())
        for code in re.findall(r"`([^`]+)`", text):
            if PROGRAM.match(code):
                found.setdefault(" ".join(code.split()), str(page.relative_to(ROOT)))
    for file in COMMENTED:
        for line in _joined(file.read_text()):
            if re.match(r"(strata|sbatch|clusters/\S+\.sh|source) ", line):
                found.setdefault(line, str(file.relative_to(ROOT)))
    return found
