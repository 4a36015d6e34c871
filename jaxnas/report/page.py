"""The shell of the HTML report: its style, its sections and tables."""

import html
from collections.abc import Sequence

# Series colours are told apart by colour-blind readers too (after Okabe and Ito), and have a lighter form at night.
_STYLE = """
:root{color-scheme:light dark;--bg:#fbfbfd;--card:#fff;--ink:#1c2330;--faint:#6b7484;--line:#e3e6ec;
--k0:#0b66c3;--k1:#d9730d;--k2:#118a64;--k3:#b8326f;--k4:#7048c8;--k5:#0e8c9c;--k6:#8a7a12;--k7:#c23b2e;
--c0:#b9c0cc;--c1:#8ecae6;--c2:#219ebc;--c3:#ffd166;--c4:#f3943d;--c5:#a7c957;--c6:#5a8f3c;--c7:#c77dff;
--b3:#dbe8f8;--b5:#8db8ea;--b7:#2c6cb5;--fixed:#eef0f4}
@media(prefers-color-scheme:dark){:root{--bg:#11151c;--card:#191f29;--ink:#e4e8ef;--faint:#98a2b3;--line:#2c3442;
--k0:#5aa9f5;--k1:#f2a04e;--k2:#45c79a;--k3:#ee7bb0;--k4:#a98bf0;--k5:#4cc5d4;--k6:#d0bd4c;--k7:#f0796c;
--c0:#5b6473;--c1:#5d9fc0;--c2:#1d7f97;--c3:#d9ad42;--c4:#cc7426;--c5:#86a63d;--c6:#4a7a30;--c7:#9a5cd0;
--b3:#22384f;--b5:#2f639c;--b7:#6fb0f2;--fixed:#262e3a}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 6px;letter-spacing:-.01em}
h2{font-size:1.2rem;margin:0 0 4px}
h2.run{font-size:1.45rem;margin:40px 0 2px}
.lead{color:var(--faint);margin:0 0 20px}
section,details{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:20px;margin:18px 0}
section>p{color:var(--faint);margin:0 0 14px;font-size:.92rem;max-width:75ch}
summary{cursor:pointer;font-weight:600}
figure{margin:0 0 18px}
figcaption{margin:0 0 4px;font-size:.95rem}
.scroll{overflow-x:auto;-webkit-overflow-scrolling:touch}
svg{display:block;width:100%;height:auto;font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
svg text{fill:var(--ink)}
svg .tick{fill:var(--faint);font-size:11px}
svg .label{fill:var(--faint);font-size:12px}
svg .strong{font-weight:600}
svg .grid{stroke:var(--line);fill:none}
svg .axis{stroke:var(--faint);fill:none}
svg .point{stroke:var(--card);stroke-width:2}
svg .wire{stroke:var(--faint);stroke-width:1.5;fill:none}
svg .skip{stroke:var(--faint);stroke-width:1.2;stroke-dasharray:5 4;fill:none}
svg .edge{stroke:var(--k0);stroke-width:2.4;fill:none}
svg .halo{paint-order:stroke;stroke:var(--card);stroke-width:4px}
svg .stage{stroke:var(--line);stroke-dasharray:3 3;fill:none}
svg .block{stroke:var(--line)}
svg rect.fixed,svg circle.fixed{fill:var(--fixed)}
svg rect.kernel3{fill:var(--b3)}svg rect.kernel5{fill:var(--b5)}svg rect.kernel7{fill:var(--b7)}
svg .inside{font-size:11.5px}
svg .inside.kernel7{fill:var(--card)}
.grid2{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:8px 20px}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;font-size:.85rem;color:var(--faint);margin:4px 0 8px}
i{display:inline-block;width:.7em;height:.7em;border-radius:50%;margin-right:.45em}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:7px 10px;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--faint);font-weight:500}
th:first-child,td:first-child{text-align:left;padding-left:0}
details td:last-child{white-space:normal;overflow-wrap:anywhere}
a{color:var(--k0)}
footer{color:var(--faint);font-size:.85rem;margin-top:28px}
@media(max-width:520px){main{padding:20px 12px 40px}section,details{padding:14px}h1{font-size:1.5rem}}
@media print{section,details{break-inside:avoid}}
"""


def document(title: str, lead: str, body: str) -> str:
    """A whole page; `title` and `lead` are text, `body` is HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body><main>"
        f'<h1>{html.escape(title)}</h1><p class="lead">{html.escape(lead)}</p>\n{body}\n'
        "<footer>Made by jaxnas. This page is one file and asks for no other.</footer></main></body></html>\n"
    )


def section(title: str, note: str, body: str) -> str:
    """A card; `title` and `note` are text, `body` is HTML."""
    note = f"<p>{html.escape(note)}</p>" if note else ""
    return f"<section><h2>{html.escape(title)}</h2>{note}{body}</section>\n"


def details(title: str, body: str) -> str:
    """A card that opens on a click."""
    return f"<details><summary>{html.escape(title)}</summary>{body}</details>\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; `head` is text, cells are HTML."""
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>'
