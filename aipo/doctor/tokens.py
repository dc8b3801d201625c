"""Does the tokenizer do what rollouts rely on? Prompts open for the assistant, text that can be appended, tags."""

from collections.abc import Iterator, Mapping

from aipo.config.build import Experiment
from aipo.config.fit import check_no_template
from aipo.doctor.check import Check, attempt
from aipo.policies.tokenizer import HFTokenizer


def check_prompt(tokenizer: HFTokenizer, prompts: Mapping[str, list[int]]) -> Iterator[Check]:
    """Do prompts end where the assistant begins?

    Args:
        prompts: ids of prompts as the graph writes them, by kind of rollout.
    """
    what = "chat template"
    if not tokenizer.inner.chat_template:
        lack = check_no_template(tokenizer)
        yield Check("warn" if lack.advice else "ok", *lack)
        return
    question, opened = (_render(tokenizer, ["x"], opened=way) for way in (False, True))
    opening = opened[len(question) :] if opened[: len(question)] == question else []
    if not opening:
        found = "add_generation_prompt adds nothing: prompts end in the user's turn"
        yield Check("fail", what, found, "a template that opens the assistant's turn")
        return
    text = repr(tokenizer.decode(opening))
    if closed := [kind for kind, ids in prompts.items() if ids[-len(opening) :] != opening]:
        found = f"{' and '.join(closed)} prompts do not end with {text}"
        yield Check("fail", what, found, "the graph's prompt node: Tokenizer.encode_prompt")
    else:
        yield Check("ok", what, f"prompts end with {text}, open for the assistant")
    begin = tokenizer.inner.bos_token_id
    if doubled := [kind for kind, ids in prompts.items() if begin is not None and ids[:2] == [begin, begin]]:
        found = f"{' and '.join(doubled)} prompts begin with the first token twice"
        yield Check("fail", what, found, "a graph that writes no first token of its own")
    yield _check_end(tokenizer, opened)


def check_appending(tokenizer: HFTokenizer, prompt: list[int], tags: list[str]) -> Check:
    """Does feedback that is appended to the context read as what was appended?"""
    marks = tags[-1:]
    parts = ["Let me ask.", *marks, "17*23=391: right.", " So it is 391.\n"]
    pieces = [tokenizer.encode(part, control=part in marks) for part in parts]
    whole = tokenizer.decode([*prompt, *(token for piece in pieces for token in piece)])
    # A word that the tokenizer does not know is no matter of appending.
    apart = "".join(map(tokenizer.decode, [prompt, *pieces]))
    if whole != apart:
        found = f"appended text reads {whole[-60:]!r}, and should {apart[-60:]!r}"
        return Check("fail", "feedback", found, "a tokenizer whose tokens keep their spaces (byte-level)")
    return Check("ok", "feedback", "can be appended to a prompt, and reads as it was written")


def check_tags(experiment: Experiment, tokenizer: HFTokenizer) -> Iterator[Check]:
    """Does the tokenizer keep each consult tag, as one id where the configuration needs that?"""
    counts: dict[str, int] = {}
    for tag in experiment.consult_tags:
        ids = tokenizer.encode(tag, control=True)
        counts[tag] = len(ids)
        if tokenizer.decode(ids) != tag:
            found = f"the tokenizer changes {tag} to {tokenizer.decode(ids)!r}"
            yield Check("fail", "tags", found, "other tags, or a tokenizer that keeps them")
            return
    needed = attempt("tags", lambda: experiment.forbidden_ids(tokenizer))
    if isinstance(needed, Check):
        yield needed
    elif counts:
        said = ", ".join(f"{tag} ({count})" for tag, count in counts.items())
        cut = "; policy.add_tags=true makes each one token" if max(counts.values()) > 1 else ""
        yield Check("ok", "tags", f"the tokenizer keeps each; tokens: {said}{cut}")


def _check_end(tokenizer: HFTokenizer, opened: list[int]) -> Check:
    """Does the assistant's turn, which follows `opened`, end with the token that ends a rollout?"""
    turn, end = _render(tokenizer, ["x", "y"], opened=False), tokenizer.decode([tokenizer.eos_id])
    if tokenizer.eos_id in turn[len(opened) :]:
        return Check("ok", "end token", f"{end} ends the assistant's turn")
    found = f"a turn ends with {tokenizer.decode(turn[-3:])!r}, rollouts with {end}"
    advice = "the eos_token of the tokenizer is to be the one that its chat template writes"
    return Check("fail", "end token", found, advice)


def _render(tokenizer: HFTokenizer, turns: list[str], *, opened: bool) -> list[int]:
    chat = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), turns, strict=False)]
    return tokenizer.encode(tokenizer.chat_text(chat, opened=opened), control=True)
