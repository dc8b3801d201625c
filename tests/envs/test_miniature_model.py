"""The miniature's policy: its tokenizer, what it is shown, and a cold start in small."""

import errno
import random
import re
import unicodedata
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM

from aipo.errors import RunError
from aipo.task import Task
from envs import miniature_model
from envs.miniature import OFFER, Facts, Miniature
from envs.miniature_model import SHARES, TAGS, Demonstrator, Piece, cold_start, network, tokenizer
from graphs.protocol import NOTICES, Grammar

WORDS = tokenizer()
TRACE = "3@7+5=?\n<consult:knowledge>3@7</consult><feedback:knowledge>3@7=582</feedback>3@7=582\n582+5=587\n#587<eos>"
STEPS = 30


# The tokenizer


def test_a_trace_is_one_token_per_character_and_per_tag() -> None:
    ids = WORDS.encode(TRACE)
    assert len(ids) == 8 + 1 + 3 + 1 + 1 + 7 + 1 + 8 + 10 + 4 + 1
    assert WORDS.decode(ids) == TRACE


@pytest.mark.parametrize("tag", [*TAGS, "<eos>", "<pad>"])
def test_tags_are_single_special_tokens(tag: str) -> None:
    assert WORDS.encode(tag) == [WORDS.convert_tokens_to_ids(tag)]
    assert tag in WORDS.all_special_tokens
    # written by somebody else they are plain text
    plain = WORDS.encode(tag, split_special_tokens=True)
    assert len(plain) == len(tag)
    assert WORDS.decode(plain) == tag


def test_the_tags_are_those_of_the_protocol() -> None:
    grammar, agents = Grammar(), ("verify", "knowledge", "reasoning")
    named = {t.replace("{agent}", a) for t in (grammar.open, grammar.feedback_open) for a in agents}
    closing = {grammar.close, grammar.feedback_close, grammar.notice_open, grammar.notice_close}
    assert set(TAGS) == named | closing


@pytest.mark.parametrize("fault", NOTICES)
def test_every_notice_can_be_written(fault) -> None:
    text = Grammar().notice(fault, "knowledge", ["verify", "reasoning"])
    ids = WORDS.encode(text, split_special_tokens=True)
    assert len(ids) == len(text)
    assert WORDS.decode(ids) == text


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])))
def test_any_normalised_text_survives(text: str) -> None:
    text = unicodedata.normalize("NFC", text)
    assert WORDS.decode(WORDS.encode(text, split_special_tokens=True)) == text


# Demonstrations


def draw(kind: str, seed: int = 0, facts: Facts | None = None) -> list[Piece]:
    return getattr(Demonstrator(facts or Facts.draw(0), frozenset()), f"_{kind}")(random.Random(seed))


def demonstrations(seed: int, count: int) -> list[list[Piece]]:
    env, rng = Miniature(seed), random.Random(seed)
    demos = Demonstrator(env.facts, miniature_model.reserved(env))
    return [demos.draw(rng) for _ in range(count)]


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_a_practice_fact_is_looked_up_and_copied() -> None:
    facts = Facts({"3@7": 111}, known=(), unknown=(), practice=("3@7",))
    prompt, consult, feedback, line, rest = draw("practice", facts=facts)
    b = int(prompt.text.removeprefix("3@7+").removesuffix("=?\n"))
    value = int(line.text.removeprefix("3@7="))
    assert prompt.learned is feedback.learned is False
    assert consult == Piece("<consult:knowledge>3@7</consult>")
    assert feedback.text == f"<feedback:knowledge>3@7={value}</feedback>"
    assert line == Piece(f"3@7={value}\n")
    assert rest == Piece(f"{value}+{b}={value + b}\n#{value + b}<eos>")


def test_a_practice_fact_has_a_fresh_value_each_time() -> None:
    facts = Facts({"3@7": 111}, known=(), unknown=(), practice=("3@7",))
    assert len({draw("practice", seed, facts)[3].text for seed in range(100)}) > 80


def test_verify_is_asked_about_right_and_wrong_lines_and_wrong_lines_are_not_learned() -> None:
    replies = set()
    for seed in range(40):
        pieces = draw("verify", seed)
        at = next(i for i, piece in enumerate(pieces) if piece.text.startswith("<consult:verify>"))
        claim = re.fullmatch(r"<consult:verify>(\d+)\+(\d+)=(\d+)</consult>", pieces[at].text)
        assert claim
        a, b, total = map(int, claim.groups())
        right = a + b == total
        assert pieces[at - 1] == Piece(f"{a}+{b}={total}\n", learned=right)
        reply = "right" if right else f"{a}+{b}={a + b}"
        assert pieces[at + 1] == Piece(f"<feedback:verify>{reply}</feedback>", learned=False)
        after = f"#{a + b}<eos>" if right else f"{a}+{b}={a + b}\n#{a + b}<eos>"
        assert pieces[at + 2 :] == [Piece(after)]
        replies.add(right)
    assert replies == {True, False}


def test_reasoning_gives_the_line_that_is_copied() -> None:
    for seed in range(20):
        *_, consult, feedback, rest = draw("reasoning", seed)
        line, _, answer = rest.text.partition("\n")
        assert consult == Piece("<consult:reasoning>next</consult>")
        assert feedback == Piece(f"<feedback:reasoning>{line}</feedback>", learned=False)
        assert answer == f"#{line.partition('=')[2]}<eos>"


@pytest.mark.parametrize("kind", SHARES)
def test_without_its_consult_a_demonstration_is_a_solo_derivation(kind: str) -> None:
    for seed in range(20):
        pieces = draw(kind, seed)
        if not all(piece.learned or piece.text.startswith(("<", pieces[0].text)) for piece in pieces):
            continue  # a wrong line stands in it
        solo = re.sub(r"<consult:\w+>.*?</consult><feedback:\w+>.*?</feedback>", "", text_of(pieces))
        assert re.fullmatch(r"(\d@\d|\d{3})\+\d\d?=\?\n(\d@\d=\d{3}\n)?(\d+)\+\d\d?=(\d+)\n#\4<eos>", solo)


@pytest.mark.parametrize("kind", ["known", "plain"])
def test_the_environment_shows_what_the_cold_start_shows(kind: str) -> None:
    env = Miniature(0)
    for seed in range(20):
        prompt, *work = draw(kind, seed)
        expression = prompt.text.removeprefix(OFFER).removesuffix("=?\n")
        fact, _, operand = expression.partition("+")
        said = "".join(piece.text for piece in work)
        task = Task(
            task_id="t",
            prompt=f"{expression}=?\n",
            answer=said.rpartition("#")[2].removesuffix("<eos>"),
            split="easy",
            metadata={"fact": fact if "@" in fact else None, "operand": int(operand)},
        )
        assert f"{env.demonstration(task)}<eos>" == said


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nothing_of_an_unknown_fact_or_of_the_evaluation_is_shown(seed: int) -> None:
    env = Miniature(seed)
    seen = "\n".join(map(text_of, demonstrations(seed, 5000)))
    facts = set(re.findall(r"\d@\d", seen))
    assert facts == {*env.facts.known, *env.facts.practice}
    shown = {f"{expression}=?\n" for expression in re.findall(r"[0-9@]+\+[0-9]+", seen)}
    assert shown.isdisjoint(task.prompt for split in ("easy", "heldout") for task in env.tasks(split))


def test_a_practice_fact_never_stands_without_a_consult() -> None:
    practice = set(Facts.draw(0).practice)
    for pieces in demonstrations(0, 2000):
        if practice & set(re.findall(r"\d@\d", text_of(pieces))):
            assert pieces[1].text.startswith("<consult:knowledge>")


def test_prompts_and_feedback_carry_no_loss() -> None:
    for pieces in demonstrations(0, 2000):
        assert not pieces[0].learned
        assert not any(piece.learned for piece in pieces if piece.text.startswith("<feedback:"))
        assert pieces[-1].learned and pieces[-1].text.endswith("<eos>")


# The cold start


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, int, float]]]:
    cache, seen = tmp_path_factory.mktemp("cache"), []
    folder = cold_start(seed=0, steps=STEPS, cache=cache, progress=lambda *now: seen.append(now))
    return folder, seen


def test_a_short_cold_start_lowers_the_loss(started) -> None:
    _, seen = started
    assert [(step, steps) for step, steps, _ in seen] == [(10, STEPS), (20, STEPS), (30, STEPS)]
    assert seen[-1][2] < seen[0][2] < 5.6  # ln(270): what knowing nothing costs


def test_it_is_built_once(started) -> None:
    folder, _ = started
    before = (folder / "model.safetensors").stat().st_mtime_ns
    never = cold_start(
        seed=0, steps=STEPS, cache=folder.parent, progress=lambda *now: pytest.fail("built again")
    )
    assert never == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # no draft is left


def test_the_same_seed_gives_the_same_weights_and_leaves_the_callers_random_numbers(
    started, tmp_path
) -> None:
    folder, _ = started
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    again = cold_start(seed=0, steps=STEPS, cache=tmp_path)
    assert torch.equal(torch.rand(3), expected)
    assert again.name == folder.name
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_seed_steps_and_source_are_the_key(started, tmp_path) -> None:
    folder, _ = started
    names = {
        cold_start(seed=seed, steps=steps, cache=tmp_path).name for seed, steps in ((0, 1), (1, 1), (0, 2))
    }
    assert len(names | {folder.name}) == 4


def test_the_default_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cold_start(steps=1).parent == tmp_path / "aipo"


def test_a_full_disk_says_so_and_leaves_no_draft(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Qwen2ForCausalLM, "save_pretrained", full)
    with pytest.raises(RunError, match=r"saving the cold start: got .*No space left"):
        cold_start(steps=1, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_an_ordinary_model_and_tokenizer(started) -> None:
    folder, _ = started
    words, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    assert words.encode(TRACE) == WORDS.encode(TRACE)
    assert words.decode(words.encode(TRACE)) == TRACE
    assert (words.pad_token_id, words.eos_token_id) == (model.config.pad_token_id, model.config.eos_token_id)
    assert model.config.model_type == "qwen2"
    assert len(words) == model.config.vocab_size
    assert model(input_ids=torch.tensor([words.encode(TRACE)])).logits.isfinite().all()


def test_input_and_output_embeddings_are_two_matrices() -> None:
    model = network(len(WORDS))
    assert model.get_input_embeddings().weight.data_ptr() != model.get_output_embeddings().weight.data_ptr()
