"""Write an HTML page with its pictures inside and without scripts.

All text is escaped, because names of classes, runs and files come from data; the page's policy
forbids browsers to fetch or run anything.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from elastictool.utils.errors import ElasticToolError
from elastictool.utils.text import printable

_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff;
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.6rem; margin-bottom: 0; }}
h2 {{ font-size: 1.2rem; margin-top: 2.4rem; border-bottom: 1px solid #ddd; }}
p.about, p.note, figcaption {{ color: #5a5a5a; }}
p.problem {{ color: #a03c00; font-weight: 600; }}
table {{ border-collapse: collapse; margin: 0.8rem 0; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.15rem 0.9rem 0.15rem 0; text-align: right; border-bottom: 1px solid #eee;
  vertical-align: top; overflow-wrap: anywhere; }}
th:first-child, td:first-child {{ text-align: left; }}
img {{ max-width: 100%; height: auto; }}
figure {{ margin: 1rem 0; }}
pre {{ background: #f6f6f6; padding: 0.8rem; overflow-x: auto; }}
summary {{ cursor: pointer; }}
.wide {{ overflow-x: auto; }}
</style>
</head>
<body>
"""
_FOOT = "</body>\n</html>\n"


def page(title: str, parts: Sequence[str]) -> str:
    """Returns a page around ``parts``, which are HTML."""
    return _HEAD.format(title=_shown(title)) + "\n".join(parts) + "\n" + _FOOT


def _shown(text: str) -> str:
    """Returns ``text`` as HTML, without characters that turn its direction or are not seen."""
    return escape(printable(text, kept="\n"))


def element(tag: str, text: str, kind: str = "") -> str:
    """Returns escaped ``text`` inside ``tag``."""
    attribute = f' class="{escape(kind)}"' if kind else ""
    return f"<{tag}{attribute}>{_shown(text)}</{tag}>"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Returns a table of escaped cells; without ``columns`` it has no head."""
    head = "".join(element("th", column) for column in columns)
    lines = [f"<thead><tr>{head}</tr></thead>"] if columns else []
    lines.append("<tbody>")
    lines += ["<tr>" + "".join(element("td", str(cell)) for cell in row) + "</tr>" for row in rows]
    return '<div class="wide"><table>' + "\n".join(lines) + "</tbody></table></div>"


def folded(summary: str, inner: str) -> str:
    """Returns ``inner`` (HTML) behind a line that opens it."""
    return f"<details>{element('summary', summary)}{inner}</details>"


def image(path: Path, alt: str) -> str:
    """Returns a PNG as part of the page.

    Raises:
        ElasticToolError: It cannot be read.
    """
    try:
        data = base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError as error:
        raise ElasticToolError(f"cannot read {path}: {error.strerror}", "draw it anew") from error
    return f'<figure><img src="data:image/png;base64,{data}" alt="{_shown(alt)}"></figure>'
