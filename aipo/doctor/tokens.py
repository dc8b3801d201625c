"""Does the tokenizer do what rollouts rely on? Prompts open for the assistant, text that can be appended, tags."""

from collections.abc import Iterator, Mapping

from aipo.config.build import Experiment
from aipo.doctor.check import Check
from aipo.policies.tokenizer import HFTokenizer


def check_prompt(tokenizer: HFTokenizer, prompts: Mapping[str, list[int]]) -> Iterator[Check]:
    """Do prompts end where the assistant begins?

    Args:
        prompts: ids of prompts as the graph writes them, by kind of rollout.
    """
    template = tokenizer.inner.chat_template
    if not template:
        yield Check(
            "warn" if _looks_like_chat(tokenizer) else "ok",
            "chat template",
            "there is none: prompts are plain text",
            "a chat model's tokenizer with its chat_template" if _looks_like_chat(tokenizer) else "",
        )
        return
    opening = _opening(tokenizer)
    if not opening:
        yield Check(
            "fail", "chat template", "add_generation_prompt adds nothing: prompts end in the user's turn",
            "a template that opens the assistant's turn",
        )  # fmt: skip
        return
    shown = repr(tokenizer.decode(opening))
    closed = [kind for kind, ids in prompts.items() if ids[-len(opening) :] != opening]
    if closed:
        yield Check(
            "fail", "chat template", f"{' and '.join(closed)} prompts do not end with {shown}",
            "the graph's prompt node: Tokenizer.encode_prompt",
        )  # fmt: skip
    else:
        yield Check("ok", "chat template", f"prompts end with {shown}, open for the assistant")
    yield from _check_begin(tokenizer, prompts)
    yield _check_end(tokenizer)


def check_appending(tokenizer: HFTokenizer, prompt: list[int], tags: list[str]) -> Check:
    """Does feedback that is appended to the context read as what was appended?"""
    marks = tags[-1:]
    parts = ["Let me ask.", *marks, "17*23=391: right.", " So it is 391.\n"]
    pieces = [tokenizer.encode(part, control=part in marks) for part in parts]
    whole = tokenizer.decode([*prompt, *(token for piece in pieces for token in piece)])
    # A word that the tokenizer does not know is no matter of appending.
    apart = "".join(map(tokenizer.decode, [prompt, *pieces]))
    if whole != apart:
        return Check(
            "fail", "feedback", f"appended text reads {whole[-60:]!r}, and should {apart[-60:]!r}",
            "a tokenizer whose tokens keep their spaces (byte-level)",
        )  # fmt: skip
    return Check("ok", "feedback", "can be appended to a prompt, and reads as it was written")


def check_tags(experiment: Experiment, tokenizer: HFTokenizer) -> Iterator[Check]:
    """Is each tag that a rollout may have to do without one id?"""
    tags = tags_of(experiment)
    if not tags:
        return
    changed = [tag for tag in tags if tokenizer.decode(tokenizer.encode(tag, control=True)) != tag]
    if changed:
        yield Check(
            "fail",
            "tags",
            f"the tokenizer changes {', '.join(changed)}",
            "other tags, or a tokenizer that keeps them",
        )
        return
    several = {
        tag: len(tokenizer.encode(tag, control=True)) for tag in tags if tokenizer.token_id(tag) is None
    }
    if not several:
        yield Check("ok", "tags", f"one id each: {', '.join(tags)}")
        return
    counts = ", ".join(f"{tag} ({count})" for tag, count in several.items())
    wanted = needs_tags(experiment)
    if wanted:
        yield Check(
            "fail", "tags", f"of several ids each: {counts}; {', '.join(wanted)} need one",
            "add them to the tokenizer, or method.suppress_share=0, method.distil_suppress=false, evaluate.settings "
            "without suppressed",
        )  # fmt: skip
    else:
        yield Check("ok", "tags", f"of several ids each: {counts}; no rollout has to do without them")


def tags_of(experiment: Experiment) -> list[str]:
    """The tags of every agent that a rollout with suppressed tags cannot write."""
    return [tag.format(agent=name) for tag in experiment.rollout.suppress_tags for name in experiment.agents]


def needs_tags(experiment: Experiment) -> list[str]:
    """Settings under which each tag has to be one id; see `Experiment.forbidden_ids`."""
    method = experiment.method
    wanted = {
        "method.suppress_share": method.suppress_share > 0,
        "method.distil_suppress": method.distil_weight > 0 and method.distil_suppress,
        "evaluate.settings: suppressed": "suppressed" in experiment.evaluation.settings,
    }
    return [key for key, asked in wanted.items() if asked]


def _opening(tokenizer: HFTokenizer) -> list[int]:
    """What the template adds to open the assistant's turn."""
    closed, opened = (_render(tokenizer, ["x"], opened=way) for way in (False, True))
    return opened[len(closed) :] if opened[: len(closed)] == closed else []


def _check_begin(tokenizer: HFTokenizer, prompts: Mapping[str, list[int]]) -> Iterator[Check]:
    begin = tokenizer.inner.bos_token_id
    doubled = [kind for kind, ids in prompts.items() if begin is not None and ids[:2] == [begin, begin]]
    if doubled:
        yield Check(
            "fail", "chat template", f"{' and '.join(doubled)} prompts begin with the first token twice",
            "a graph that writes no first token of its own",
        )  # fmt: skip


def _check_end(tokenizer: HFTokenizer) -> Check:
    """Does the assistant's turn end with the token that ends a rollout?"""
    opened, whole = _render(tokenizer, ["x"], opened=True), _render(tokenizer, ["x", "y"], opened=False)
    if tokenizer.eos_id in whole[len(opened) :]:
        return Check("ok", "end token", f"{tokenizer.decode([tokenizer.eos_id])} ends the assistant's turn")
    return Check(
        "fail", "end token",
        f"a turn ends with {tokenizer.decode(whole[-3:])!r}, rollouts with {tokenizer.decode([tokenizer.eos_id])!r}",
        "the eos_token of the tokenizer is to be the one that its chat template writes",
    )  # fmt: skip


def _render(tokenizer: HFTokenizer, turns: list[str], *, opened: bool) -> list[int]:
    roles = ("user", "assistant")
    chat = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]
    return list(
        tokenizer.inner.apply_chat_template(
            chat, add_generation_prompt=opened, tokenize=True, return_dict=False
        )
    )


def _looks_like_chat(tokenizer: HFTokenizer) -> bool:
    """Does it know tokens that only chats have?"""
    texts = {str(token.content) for token in tokenizer.inner.added_tokens_decoder.values()}
    return bool(texts & {"<|im_start|>", "<|start_header_id|>", "[INST]", "<start_of_turn>"})
