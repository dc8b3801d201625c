"""Every colour of the project's pages, light and dark, and the style sheet of a context."""

# Light and dark. `c0`, `c1`, … are for runs and arms in charts, `k0`, `k1`, … for agents.
THEME: dict[str, tuple[str, str]] = {
    "page": ("#fff", "#0f1217"),
    "ink": ("#1b2027", "#e4e8ee"),
    "soft": ("#5b6470", "#98a2b0"),
    "line": ("#e1e5ea", "#272d36"),
    "edge": ("#868f9b", "#6b7684"),
    "card": ("#f6f7f9", "#161a20"),
    "hover": ("#eef1f5", "#1d232b"),
    "good": ("#0b6b45", "#6fd3a8"),
    "good-bg": ("#d9f2e6", "#0d3a2a"),
    "bad": ("#a3271f", "#ff9b90"),
    "bad-bg": ("#fde4e1", "#4a1613"),
    "warn": ("#6f4400", "#f7cf84"),
    "warn-bg": ("#ffefd2", "#472f05"),
    "accent": ("#0a5cad", "#6db5f5"),
    "accent-bg": ("#e3effb", "#10304d"),
    "on-accent": ("#fff", "#0b1a28"),
    "c0": ("#656d78", "#98a2b0"),
    "c1": ("#0a66b7", "#6db5f5"),
    "c2": ("#a34a00", "#f0a35e"),
    "c3": ("#7b3fb0", "#c9a0f5"),
    "c4": ("#0b6b45", "#6fd3a8"),
    "c5": ("#a3205f", "#f590bf"),
    "c6": ("#007a87", "#4fd0dc"),
    "c7": ("#6b6a00", "#cfca55"),
    "c8": ("#c0281c", "#ff8f84"),
    "c9": ("#4148c9", "#a5aaff"),
    "c10": ("#7a4a2b", "#d9a982"),
    "c11": ("#34506e", "#a9c4de"),
    "k0": ("#0b6b45", "#6fd3a8"),
    "k1": ("#7b3fb0", "#c9a0f5"),
    "k2": ("#8a5a00", "#f0c062"),
    "k3": ("#0a66b7", "#6db5f5"),
    "k4": ("#a3205f", "#f590bf"),
    "k5": ("#5a6600", "#c6d46a"),
}
# Text and background of each producer; every pair has a contrast of 4.5 : 1 or more (WCAG AA).
COLOURS: dict[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "prompt": (("#5b6470", "#f6f7f9"), ("#98a2b0", "#161a20")),
    "policy": (("#1b2027", "#f6f7f9"), ("#e4e8ee", "#161a20")),
    "env": (("#8c1d18", "#fde4e1"), ("#ffb4ab", "#4a1613")),
    "agent0": (("#0b5138", "#d3f2e3"), ("#8fe3c0", "#0d3a2a")),
    "agent1": (("#5b2a86", "#eee0fb"), ("#d9b8fb", "#3b2059")),
    "agent2": (("#6f4400", "#ffe9c2"), ("#f7cf84", "#472f05")),
    "agent3": (("#0a4a6e", "#d5ecfb"), ("#9ad4f7", "#0c3550")),
    "agent4": (("#7d1f4e", "#fbdfec"), ("#f9b3d0", "#4f1532")),
    "agent5": (("#3e4a00", "#e9f0c2"), ("#cfdc86", "#2f3805")),
}
AGENT_COLOURS = sum(name.startswith("agent") for name in COLOURS)


def palette(theme: int) -> str:
    """Declarations of `--NAME` (text) and `--NAME-bg` for every producer; theme 0 is light, 1 dark."""
    names = ((name, pair[theme]) for name, pair in COLOURS.items())
    return "".join(f"--{name}:{text};--{name}-bg:{back};" for name, (text, back) in names)


def sheet() -> str:
    """The variables of a whole page, for both themes, and the chips in the producers' colours."""
    pairs = dict(THEME)
    chips = ""
    for name, (light, dark) in COLOURS.items():
        pairs |= {name: (light[0], dark[0]), f"{name}-bg": (light[1], dark[1])}
        chips += f".chip.{name}{{color:var(--{name});background:var(--{name}-bg);box-shadow:none}}"
    values = "".join(f"--{name}:light-dark({light},{dark});" for name, (light, dark) in pairs.items())
    return f":root{{color-scheme:light dark;{values}}}\n{chips}"


def by_theme(scope: str, light: str, dark: str) -> str:
    """Declarations for `scope` on anybody's page: the system's theme unless the page names one.

    JupyterLab and VS Code name it in words of their own.
    """
    return f"""
{scope}{{{light}}}
@media (prefers-color-scheme:dark){{{scope}{{{dark}}}}}
:is([data-theme=light],[data-jp-theme-light=true]) :is({scope}){{{light}}}
:is([data-theme=dark],[data-jp-theme-light=false],.vscode-dark) :is({scope}){{{dark}}}
""".strip()


def _style() -> str:
    producers = "".join(
        f":is(.aipo-context,.aipo-legend) .{n}{{color:var(--{n});background:var(--{n}-bg)}}"
        f".aipo-consult.of-{n}{{--own:var(--{n});--own-bg:var(--{n}-bg)}}"
        for n in COLOURS
    )
    colours = by_theme(".aipo-trace,.aipo-context,.aipo-legend", palette(0), palette(1))
    return f"{colours}\n{producers}\n{_CONTEXT}{_CARD}".strip()


_MONO = 'ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace'
_SANS = 'system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","DejaVu Sans",sans-serif'
_CONTEXT = f"""
.aipo-trace{{margin:0 0 1rem}}
.aipo-trace figcaption{{font:.8125rem/1.4 {_SANS};margin:0 0 .4rem}}
.aipo-context{{margin:0;padding:.8rem 1rem;border-radius:8px;background:var(--policy-bg);color:var(--policy);
font:.8125rem/1.65 {_MONO};
white-space:pre-wrap;overflow-wrap:anywhere;max-height:32rem;overflow:auto;tab-size:4}}
.aipo-context .fold{{display:none}}
.aipo-context .text{{padding:.1em 0;border-radius:3px;-webkit-box-decoration-break:clone;box-decoration-break:clone}}
.aipo-legend{{list-style:none;margin:.5rem 0 0;padding:0;display:flex;flex-wrap:wrap;gap:.4rem;font:.75rem/1.4 {_SANS}}}
.aipo-legend li{{margin:0}}
.aipo-legend span{{padding:.15em .6em;border-radius:99px}}
"""
_CARD = f"""
.aipo-consult{{--own:var(--env);--own-bg:var(--env-bg);display:block;margin:.35rem 0;border:1px solid var(--own-bg);
border-left:3px solid var(--own);border-radius:6px;white-space:normal}}
.aipo-consult>summary{{display:grid;grid-template-columns:auto minmax(0,1fr) auto;gap:.1rem .75rem;align-items:baseline;
padding:.3rem .7rem .3rem .55rem;cursor:pointer;list-style:none;color:var(--own);background:var(--own-bg);border-radius:0 5px 5px 0}}
.aipo-consult>summary::-webkit-details-marker{{display:none}}
.aipo-consult .who{{font:600 .8125rem/1.5 {_SANS}}}
.aipo-consult .who::before{{content:"▸";display:inline-block;width:1.05em;transition:transform .12s}}
.aipo-consult[open]>summary .who::before{{transform:rotate(90deg) translateX(.1em)}}
.aipo-consult .cost{{font:.75rem/1.5 {_SANS};font-variant-numeric:tabular-nums;text-align:right;white-space:nowrap}}
.aipo-consult .glance{{min-width:0}}
.aipo-consult .ask,.aipo-consult .told{{white-space:pre-wrap}}
.aipo-consult .arrow{{padding:0 .55em;font-family:{_SANS}}}
.aipo-consult :not(.long)>.told{{font-weight:600}}
.aipo-consult .long .part{{display:-webkit-box;-webkit-box-orient:vertical;-webkit-line-clamp:2;overflow:hidden}}
.aipo-consult .long .arrow{{padding-left:0}}
.aipo-consult .fault{{grid-column:2/-1;font:.75rem/1.5 {_SANS};color:var(--env)}}
.aipo-consult .fault b{{font-weight:600}}
.aipo-steps{{padding:.15rem .8rem .6rem;font:.8125rem/1.5 {_SANS};color:var(--policy)}}
.aipo-steps h4,.aipo-steps h5{{margin:.65rem 0 .2rem;font:600 .75rem/1.5 {_SANS};color:var(--prompt)}}
.aipo-steps h5{{margin-top:.4rem;font-weight:400}}
.aipo-steps ol{{list-style:none;margin:0;padding:0}}
.aipo-steps li+li{{margin-top:.45rem}}
.aipo-steps ol ol{{margin:.2rem 0 .3rem .35rem;padding-left:.8rem;border-left:1px solid var(--own-bg)}}
.aipo-steps p{{margin:0}}
.aipo-steps .step{{display:flex;flex-wrap:wrap;gap:0 .9rem;align-items:baseline;font-variant-numeric:tabular-nums}}
.aipo-steps .soft,.aipo-steps .note{{color:var(--prompt)}}
.aipo-steps .bad{{color:var(--env);overflow-wrap:anywhere}}
.aipo-steps pre{{margin:0;padding:.35rem .6rem;border-radius:4px;font:.8125rem/1.55 {_MONO};white-space:pre-wrap;
overflow-wrap:anywhere;max-height:16rem;overflow:auto;background:none;border:1px solid var(--own-bg)}}
.aipo-steps pre.text{{border-color:transparent}}
@media (max-width:44rem){{.aipo-consult>summary{{grid-template-columns:auto minmax(0,1fr)}}.aipo-consult .cost{{grid-column:2;text-align:left;white-space:normal}}}}
"""
STYLE = _style()
