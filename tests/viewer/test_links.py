"""Names in paths: none leaves its folder, none collides with another."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aipo.util.text import clean
from aipo.viewer.links import LEFT_OUT, Links, slug, trace_path, unslug

NAMES = st.text(st.characters(), max_size=80)  # lone surrogates too


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("aipo", "aipo"), ("aipo/evaluations/after", "aipo_2Fevaluations_2Fafter"),
        ("snake_case", "snake_5Fcase"), ("v1.5-base", "v1.5-base"),
        ("", "_"), (".", "_2E"), ("..", "_2E_2E"), ("../../etc", "_2E._2F.._2Fetc"), (".git", "_2Egit"),
        ("né", "n_C3_A9"), ("a b?#%&", "a_20b_3F_23_25_26"),
    ],
)  # fmt: skip
def test_slugs(name: str, expected: str) -> None:
    assert slug(name) == expected
    assert unslug(expected) == name


@given(NAMES, NAMES)
def test_a_slug_is_a_plain_file_name_and_injective(one: str, other: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]([A-Za-z0-9._-]{0,118}[A-Za-z0-9_-])?", slug(one))
    assert (slug(one) == slug(other)) == (one == other)
    assert unslug(slug(one)) == (None if "_-" in slug(one) or one != clean(one) else one)


def test_a_long_name_keeps_its_beginning_and_ends_in_a_hash() -> None:
    one, other = slug("x" * 500), slug("x" * 501)
    assert len(one) == len(slug("né" * 60)) == 120
    assert one.startswith("xxxxx") and one != other
    assert unslug(one) is None


@pytest.mark.parametrize("text", ["a/b", "_2f", "_2", "_41", "..", "_FF", "a_-0", "é", "_ED_A0_80", "\ud800"])
def test_what_no_name_is_written_as_is_refused(text: str) -> None:
    assert unslug(text) is None


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("/home/ann/runs", "runs"),
        ("/home/ann/graph.py:mine", "graph.py:mine"),
        ("~/.cache/model/", "model"),
        (r"C:\Users\ann\x.json", "x.json"),
        ("x.json: got 3, allowed 4, in /home/ann/x.json", "x.json: got 3, allowed 4, in x.json"),
        ('"/home/ann/runs"', '"runs"'),
        ("graphs/consult.py https://a.example/b/c and / or 1/2 group/constant", None),
    ],
)
def test_a_static_site_names_no_folder_of_this_machine(text: str, public: str | None) -> None:
    assert Links(0, live=False).public(text) == (text if public is None else public)
    assert Links(0).public(text) == text


def test_links_are_relative_to_the_page() -> None:
    links = Links(3)
    pages = {
        "index.html": links.home,
        "run/aipo/index.html": links.run("aipo"),
        "run/aipo/group/00000-001.html": links.group("aipo", "00000-001"),
        "run/aipo/trace/aipo_2F00000-001_2F2.html": links.trace("aipo", "aipo/00000-001/2"),
        "compare/a/b.html": links.compare("a", "b"),
        "compare/a/t/b/u.html": links.compare("a", "t", "b", "u"),
    }
    files = {"static/base.css": links.static("base.css"), "run/aipo/version": links.version("aipo")}
    for path, link in {**pages, **files}.items():
        assert link == f"../../../{path}"
    assert links.followed == pages.keys()
    assert Links(0).home == "index.html"
    with pytest.raises(ValueError, match="got 3 names, allowed two runs"):
        links.compare("a", "b", "c")


def test_a_link_to_a_page_that_was_left_out_leads_to_one_that_says_so() -> None:
    links = Links(1, missing={trace_path("aipo", "t")})
    assert links.home == "../index.html"
    assert links.trace("aipo", "t") == links.compare("aipo", "u", "aipo", "t") == f"../{LEFT_OUT}"
    assert links.compare("aipo", "u", "aipo", "v") == "../compare/aipo/u/aipo/v.html"
