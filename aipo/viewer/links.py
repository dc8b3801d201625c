"""Links between pages: all relative, the same on the server and in the static site.

index.html
run/RUN/index.html   run/RUN/page-2.html   run/RUN/group/GROUP.html   run/RUN/trace/TRACE.html
run/EVALUATION/task/SPLIT/TASK.html   run/EVALUATION/traces.html (of a server only)
compare/RUN/RUN.html   compare/RUN/TRACE/RUN/TRACE.html
static/FILE

Each name is a `slug`, so that no id can leave its folder or be taken for another one.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from hashlib import sha256

_LONGEST = 120
_UNSAFE = re.compile(rb"[^A-Za-z0-9.-]|\A\.|\.\Z")
_ESCAPED = re.compile(rb"_([0-9A-F]{2})")
# Neither in the middle of a word or a relative path nor after the colon of a URL.
_ABSOLUTE = re.compile(r"""(?<![\w.~:/\\-])(?:~?/|[A-Za-z]:[/\\])[^\s'"<>]+""")
LEFT_OUT = "left-out.html"


def slug(name: str) -> str:
    """`name` as one part of a path: injective, at most 120 letters, digits, dots, hyphens and underscores.

    Bytes of UTF-8 that are no letter, digit, dot or hyphen become `_` and two hex digits, and so do dots at
    either end. What would be longer than 120 characters ends in a hash instead. Case is kept, so that on a disk
    that does not tell `A` from `a` (macOS, Windows) two names may be one file, as their run folders would be;
    and so are the names that Windows keeps for devices (`con`, `nul`).
    """
    raw = name.encode("utf-8", "surrogatepass")
    text = _UNSAFE.sub(lambda match: b"_%02X" % match[0][0], raw).decode() or "_"
    if len(text) <= _LONGEST:
        return text
    tail = f"_-{sha256(raw).hexdigest()[:32]}"  # no escape begins like this
    return text[: _LONGEST - len(tail)] + tail


def unslug(text: str) -> str | None:
    """The name behind a slug; None when it was shortened, is no slug, or of what UTF-8 cannot hold."""
    try:
        raw = b"" if text == "_" else text.encode()
        name = _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), raw).decode()
    except UnicodeError:
        return None
    return name if slug(name) == text else None


@dataclass(frozen=True, slots=True)
class Links:
    """Links from a page that lies `depth` folders below the first one.

    Args:
        depth: number of folders between the page and the site's root.
        live: a server answers, so that forms and queries have an effect.
        missing: pages that were left out of a static site; a link to one leads to a page that says so.

    Attributes:
        followed: pages that links were asked for, as paths from the root.
    """

    depth: int
    live: bool = True
    missing: Collection[str] = frozenset()
    followed: set[str] = field(default_factory=set[str])

    def has(self, path: str) -> bool:
        return path not in self.missing

    @property
    def home(self) -> str:
        return self._page("index.html")

    def run(self, name: str, page: int = 1) -> str:
        """The run; `page` is for static sites."""
        return self._page(run_path(name, page))

    def group(self, run: str, group_id: str) -> str:
        return self._page(group_path(run, group_id))

    def trace(self, run: str, trace_id: str) -> str:
        return self._page(trace_path(run, trace_id))

    def task(self, run: str, split: str, task_id: str) -> str:
        """A task of an evaluation."""
        return self._page(task_path(run, split, task_id))

    def traces(self, run: str) -> str:
        """All traces of an evaluation, to be filtered and searched; only a server has this page."""
        return self._page(f"run/{slug(run)}/traces.html")

    def compare(self, *names: str) -> str:
        """`compare(run, run)`, or `compare(run, trace, run, trace)`."""
        traces = [trace_path(*names[:2]), trace_path(*names[2:])] if len(names) == 4 else []
        return self._page(compare_path(*names), *traces)

    def version(self, run: str | None = None) -> str:
        """Address of a number that grows when the run (or any run) has changed."""
        return self._root + ("version" if run is None else f"run/{slug(run)}/version")

    def static(self, file: str) -> str:
        return f"{self._root}static/{file}"

    def public(self, text: object) -> str:
        """`text` for a page: a static site is public and shows no folder of this machine."""
        if self.live:
            return str(text)
        return _ABSOLUTE.sub(lambda match: re.split(r"[/\\]", match[0].rstrip("/\\"))[-1], str(text))

    @property
    def choose(self) -> str:
        """Target of the form with two runs (`left`, `right`); only a server answers it."""
        return self._root + "compare"

    @property
    def _root(self) -> str:
        return "../" * self.depth

    def _page(self, path: str, *shown: str) -> str:
        """A link to the page, unless it or one of those that it shows was left out."""
        path = path if all(map(self.has, (path, *shown))) else LEFT_OUT
        self.followed.add(path)
        return self._root + path


def run_path(name: str, page: int = 1) -> str:
    return f"run/{slug(name)}/{'index' if page == 1 else f'page-{page}'}.html"


def group_path(run: str, group_id: str) -> str:
    return f"run/{slug(run)}/group/{slug(group_id)}.html"


def trace_path(run: str, trace_id: str) -> str:
    return f"run/{slug(run)}/trace/{slug(trace_id)}.html"


def task_path(run: str, split: str, task_id: str) -> str:
    return f"run/{slug(run)}/task/{slug(split)}/{slug(task_id)}.html"


def compare_path(*names: str) -> str:
    if len(names) not in (2, 4):
        raise ValueError(f"compare: got {len(names)} names, allowed two runs, or twice a run and a trace")
    return f"compare/{'/'.join(map(slug, names))}.html"
