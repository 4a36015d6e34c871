"""The look of a report: one style sheet, with the colours of the networks for light and dark mode."""

_STYLE = """
*{box-sizing:border-box}
html{color-scheme:light dark;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",sans-serif}
main,header{max-width:1180px;margin:0 auto;padding:0 24px}
header{padding-top:40px}
h1{font-size:30px;line-height:1.15;letter-spacing:-.02em;margin:0 0 6px;font-weight:700}
h2{font-size:21px;letter-spacing:-.01em;margin:44px 0 4px;font-weight:680}
h3 small{font-weight:400;font-size:13px}
h3{font-size:15px;margin:0 0 8px;font-weight:620;display:flex;align-items:baseline;gap:8px;flex-wrap:wrap}
p{margin:4px 0 14px;max-width:78ch}
.note,figcaption,small{color:var(--soft)}
figcaption{font-size:13px;margin-top:6px}
nav{display:flex;flex-wrap:wrap;gap:6px 18px;margin:14px 0 0;font-size:14px}
a{color:var(--link);text-decoration:none}a:hover{text-decoration:underline}
.run{border-top:1px solid var(--rule);margin-top:56px}
.run>h2{font-size:25px;margin-top:28px}
.run h2.part{font-size:18px;margin-top:34px}
.grid{display:grid;gap:16px;grid-template-columns:repeat(auto-fit,minmax(min(100%,340px),1fr));margin:12px 0}
.wide{grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr))}
.pairs{grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr))}
.pairs svg.chart{max-width:460px;margin:0 auto}
.stack{grid-template-columns:minmax(0,1fr)}
figure,.card{margin:0;background:var(--panel);border:1px solid var(--rule);border-radius:12px;padding:16px;min-width:0}
.scroll{overflow-x:auto;overscroll-behavior-x:contain;-webkit-overflow-scrolling:touch}
.cards{display:grid;gap:12px;grid-template-columns:repeat(auto-fit,minmax(min(100%,205px),1fr));margin:14px 0}
.card{border-top:4px solid var(--tint)}
.card b{display:block;font-size:25px;line-height:1.2;letter-spacing:-.02em;font-weight:680}
.card .line{color:var(--soft);font-size:13.5px;font-variant-numeric:tabular-nums}
.chip{display:inline-block;width:11px;height:11px;border-radius:3px;background:var(--tint);flex:none;align-self:center}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;margin:10px 0;padding:0;list-style:none;font-size:13.5px;
color:var(--soft)}
.legend li{display:flex;align-items:center;gap:6px}
.legend svg{flex:none;width:auto;height:auto;max-width:none}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
th,td{padding:8px 12px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--rule)}
th{font-weight:600;color:var(--soft);font-size:12.5px}
th:first-child,td:first-child,th.text,td.text{text-align:left}
tr:last-child td{border-bottom:0}
td.text{white-space:normal;min-width:130px}
code,pre{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
pre{background:var(--panel);border:1px solid var(--rule);border-radius:10px;padding:12px 14px;margin:8px 0;
overflow-x:auto}
details{margin:10px 0}summary{cursor:pointer;color:var(--soft)}
footer{color:var(--soft);font-size:13px;max-width:1180px;margin:56px auto 0;padding:16px 24px 48px}
svg{display:block}
svg.chart{width:100%;height:auto}
svg text{font:11.5px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif;fill:var(--ink)}
svg .tick{font-size:11px;fill:var(--soft)}
svg .strong{fill:var(--ink)}
svg .faint{fill:var(--soft);opacity:.85}
svg .name{font-size:11.5px;font-weight:600;fill:var(--soft)}
svg .label{font-size:11px;fill:var(--ink);paint-order:stroke;stroke:var(--panel);stroke-width:3px}
svg .grid{stroke:var(--rule);stroke-width:1}
svg .axis{stroke:var(--faint);stroke-width:1}
svg .curve{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
svg .point{stroke:var(--panel);stroke-width:1.5}
svg .front{fill:none;stroke:var(--faint);stroke-width:1.6}
svg .front.dashed{stroke-dasharray:6 4}
svg .front.dotted{stroke-dasharray:1 4;stroke-linecap:round;stroke-width:2}
svg .truth{fill:none;stroke:var(--ink);stroke-width:1.1;opacity:.55}
svg .cloud{stroke:var(--faint);stroke-width:2.4;stroke-linecap:round;opacity:.45;fill:none}
svg .budget{stroke-width:1.5;stroke-dasharray:3 3}
svg .stage{fill:var(--stage)}
svg .flow{stroke:var(--soft);stroke-width:1.3}
svg .fixed{fill:var(--page);stroke:var(--faint);stroke-width:1}
svg .dot{fill:var(--panel);stroke-width:2}
svg .reach{fill:transparent}
svg .on{fill:var(--on);font-weight:650;font-size:11px}
svg .small{font-size:10px;font-weight:500}
svg .node{fill:var(--page);stroke:var(--soft);stroke-width:1.3}
svg .edge{stroke:var(--soft);stroke-width:1.3}
svg .edge.pool{stroke-width:2.5;stroke-dasharray:7 5}
svg .edge.none{stroke-dasharray:1 6;stroke-linecap:round;opacity:.6}
svg .edge-label{fill:var(--panel)}
@media (max-width:560px){main,header{padding:0 14px}header{padding-top:26px}h1{font-size:25px}figure{padding:12px 10px}
.cards{grid-template-columns:repeat(2,minmax(0,1fr))}.card{padding:12px}.card b{font-size:21px}
svg.chart .tick,svg.chart .label,svg.chart .name{font-size:12px}}
@media print{body{background:#fff}figure,.card{break-inside:avoid}}
"""

_LIGHT = {"page": "#f7f7f5", "panel": "#ffffff", "ink": "#1c1f23", "soft": "#5d6570", "faint": "#a9b0b9",
          "rule": "#e3e5e8", "stage": "#eff1f3", "link": "#1f5fbf", "on": "#ffffff"}  # fmt: skip
_DARK = {"page": "#131619", "panel": "#1b1f24", "ink": "#e9ebee", "soft": "#a3abb5", "faint": "#69727d",
         "rule": "#2d333a", "stage": "#252b32", "link": "#86b6ff", "on": "#101316"}  # fmt: skip
_HUES = (265, 22)  # of the first and of the last network: blue over green and gold to red


def style_sheet(distributions: int) -> str:
    """The style sheet.

    Args:
      distributions: the largest K of the runs; each k has one colour in all figures.
    """
    hues = [_HUES[0] + (_HUES[1] - _HUES[0]) * k / max(1, distributions - 1) for k in range(distributions)]
    light = _variables({**_LIGHT, **{f"k{k}": f"oklch(0.53 0.15 {hue:.0f})" for k, hue in enumerate(hues)}})
    dark = _variables({**_DARK, **{f"k{k}": f"oklch(0.76 0.13 {hue:.0f})" for k, hue in enumerate(hues)}})
    return f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}{_STYLE}"


def _variables(values: dict[str, str]) -> str:
    return ";".join(f"--{name}:{value}" for name, value in values.items())
