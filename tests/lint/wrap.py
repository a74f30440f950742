# SPDX-License-Identifier: MIT
"""Wraps prose in block comments at the column limit; what clang-format cannot do without
tearing diagrams apart. Only paragraphs with an overlong line are touched, and of those only plain
prose and list items: text that begins one space after the star or with a bullet, and that has no
columns, arrows or box drawing in it.

    wrap.py [FILE ...]     in place; all C files without an argument
"""

import re
import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from rules import MAX_COLUMNS
from source import c_sources

# prefix up to the text, list bullet, text
_OPEN = re.compile(r"^( *)/\* ()(\S.*)$")
_STAR = re.compile(r"^( *\* )( *(?:[-*]|\d+\.) )?(\S.*)$")


def _is_prose(text):
    return "   " not in text and not re.search("[\u2190-\u21ff\u2500-\u257f]|-->|<--", text)


def wrap(lines):
    out, index = [], 0
    while index < len(lines):
        block = _paragraph(lines, index)
        overlong = any(len(line) > MAX_COLUMNS for line in block)
        block = block or lines[index : index + 1]
        out += _fill(block) if overlong else block
        index += len(block)
    return out


def _begin(line):
    """(first line's prefix, prefix of the lines that follow, text) of a paragraph, or None."""
    match = _OPEN.match(line)
    if match:
        return match.group(1) + "/* ", match.group(1) + " * ", match.group(3)
    match = _STAR.match(line)
    if match:
        star, bullet, text = match.groups(default="")
        return star + bullet, star + " " * len(bullet), text
    return None


def _paragraph(lines, index):
    """The lines of the prose paragraph that begins at index; none when there is no such thing."""
    first = _begin(lines[index])
    if not first:
        return []
    _, star, text = first
    block = [lines[index]]
    while not block[-1].endswith("*/") and index + len(block) < len(lines):
        line = lines[index + len(block)]
        begins = line.startswith(star) or line.startswith(" " * len(star))  # with a star, or without
        if not begins or line[len(star) :].startswith(" ") or _is_item(line):
            break
        block.append(line)
        text += " " + line[len(star) :]
    closed_early = "*/" in text[:-2]
    return block if _is_prose(text) and not closed_early else []


def _is_item(line):
    match = _STAR.match(line)
    return bool(match and match.group(2)) or line.strip() == "*/"


def _fill(block):
    head, star, text = _begin(block[0])
    text = " ".join([text] + [line[len(star) :] for line in block[1:]])
    if text.endswith("*/"):
        text = text[:-2].rstrip() + "\0*/"  # the end stays with the last word
    filled = textwrap.wrap(
        text, MAX_COLUMNS, initial_indent=head, subsequent_indent=star,
        break_long_words=False, break_on_hyphens=False,
    )
    return [line.replace("\0", " ") for line in filled]


def main():
    root = Path(__file__).resolve().parents[2]
    paths = [Path(name) for name in sys.argv[1:]]
    for path in paths or [root / source.path for source in c_sources(root)]:
        text = path.read_text(encoding="utf-8")
        wrapped = "\n".join(wrap(text.split("\n")))
        if wrapped != text:
            path.write_text(wrapped, encoding="utf-8")


if __name__ == "__main__":
    main()
