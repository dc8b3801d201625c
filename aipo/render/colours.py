"""Every colour of the project's pages, light and dark, and the style sheet of a context."""

from collections.abc import Mapping

from aipo.render.templating import static_text

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
    "teacher": (("#123f8c", "#dde7fb"), ("#b3ccff", "#16294f")),
    "env": (("#8c1d18", "#fde4e1"), ("#ffb4ab", "#4a1613")),
    "agent0": (("#0b5138", "#d3f2e3"), ("#8fe3c0", "#0d3a2a")),
    "agent1": (("#5b2a86", "#eee0fb"), ("#d9b8fb", "#3b2059")),
    "agent2": (("#6f4400", "#ffe9c2"), ("#f7cf84", "#472f05")),
    "agent3": (("#0a4a6e", "#d5ecfb"), ("#9ad4f7", "#0c3550")),
    "agent4": (("#7d1f4e", "#fbdfec"), ("#f9b3d0", "#4f1532")),
    "agent5": (("#3e4a00", "#e9f0c2"), ("#cfdc86", "#2f3805")),
}
AGENT_COLOURS = sum(name.startswith("agent") for name in COLOURS)
_PRODUCERS = {name: (light[0], dark[0]) for name, (light, dark) in COLOURS.items()} | {
    f"{name}-bg": (light[1], dark[1]) for name, (light, dark) in COLOURS.items()
}


def _variables(pairs: Mapping[str, tuple[str, str]]) -> str:
    return "".join(f"--{name}:light-dark({light},{dark});" for name, (light, dark) in pairs.items())


def sheet() -> str:
    """The variables of a whole page, for both themes, and the chips in the producers' colours."""
    chips = "".join(
        f".chip.{name}{{color:var(--{name});background:var(--{name}-bg);box-shadow:none}}" for name in COLOURS
    )
    return f":root{{color-scheme:light dark;{_variables(THEME | _PRODUCERS)}}}\n{chips}"


def by_theme(scope: str, pairs: Mapping[str, tuple[str, str]]) -> str:
    """Variables for `scope` on anybody's page, light and dark: the system's theme unless the page names one.

    JupyterLab and VS Code name it in words of their own.
    """
    return (
        f"{scope}{{color-scheme:light dark;{_variables(pairs)}}}\n"
        f":is([data-theme=light],[data-jp-theme-light=true]) :is({scope}){{color-scheme:light}}\n"
        f":is([data-theme=dark],[data-jp-theme-light=false],.vscode-dark) :is({scope}){{color-scheme:dark}}\n"
    )


def _style() -> str:
    producers = "".join(
        f":is(.aipo-context,.aipo-legend) .{n}{{color:var(--{n});background:var(--{n}-bg)}}"
        f".aipo-consult.of-{n}{{--own:var(--{n});--own-bg:var(--{n}-bg)}}\n"
        for n in COLOURS
    )
    variables = by_theme(".aipo-trace,.aipo-context,.aipo-legend", _PRODUCERS)
    return f"{variables}{static_text('context.css')}{producers}"


STYLE = _style()
