# SPDX-License-Identifier: MIT
"""Source files and what can be told about them without a compiler."""

import re
from pathlib import Path

FOLDERS = ("admin", "deploy", "health", "pools", "proxy", "tests")

_TOKEN = re.compile(
    r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL
)
_INCLUDE = re.compile(r"""^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]+)[>"]""", re.MULTILINE)


class Source:
    """One C file: its text, and `code`, the same text with comments and literals blanked."""

    def __init__(self, root, path):
        self.path = path.relative_to(root).as_posix()
        self.room = self.path.rpartition("/")[0]
        self.text = path.read_text(encoding="utf-8")
        self.lines = self.text.splitlines()
        self.code = _TOKEN.sub(_blank, self.text)

    def line_of(self, offset):
        return self.text.count("\n", 0, offset) + 1

    def includes(self):
        """(line, '<' or '"', header), also those of lines that the preprocessor would skip."""
        visible = _TOKEN.sub(lambda m: m.group() if m.group()[0] == '"' else _blank(m), self.text)
        for match in _INCLUDE.finditer(visible):
            yield self.line_of(match.start()), match.group(1), match.group(2)

    def functions(self):
        """(name, first line, number of lines); relies on the format: bodies start in column 0."""
        head, begin, body = "", 0, None
        for number, line in enumerate(self.code.splitlines(), 1):
            if body is not None:
                if line.startswith("}"):
                    name = re.search(r"(\w+)\s*\(", head)
                    if name and not line.startswith("};"):
                        yield name.group(1), begin, number - begin + 1
                    head, body = "", None
            elif line.startswith("{"):
                body = number
            elif line and (line[0].isalpha() or line[0] == "_"):
                head, begin = line, number
            elif line.startswith((" ", "\t")) and head:
                head += line


def _blank(match):
    return re.sub(r"[^\n]", " ", match.group())


def c_sources(root):
    root = Path(root)
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.[ch]")):
            yield Source(root, path)


def script_sources(root):
    """Every other text file with a place for a comment."""
    root = Path(root)
    found = [root / name for name in ("dev", "CMakeLists.txt", "Dockerfile", ".ci/run")]
    for folder in FOLDERS:
        for pattern in ("*.py", "*.sh"):
            found += sorted((root / folder).rglob(pattern))
    return [path for path in found if path.is_file()]
