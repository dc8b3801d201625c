"""The miniature's teacher: it asks for what the policy lacks, and copies what it is told."""

import re

import pytest
from langchain_core.messages import HumanMessage

from envs.miniature import agents
from envs.miniature.task import Miniature
from envs.miniature.teacher import next_text

KNOWN = {"1@1": 300}

TURNS = [
    ("250+20=?\n", ["250+20=270\n#270"]),
    ("1@1+5=?\n", ["1@1=300\n300+5=305\n#305"]),
    (
        "3@7+5=?\n",
        [
            "<consult:knowledge>3@7</consult>",
            "<feedback:knowledge>3@7=582</feedback>",
            "3@7=582\n582+5=587\n#587",
        ],
    ),
    (
        "~582+20=?\n",
        [
            "<consult:reasoning>next</consult>",
            "<feedback:reasoning>~582=417</feedback>",
            "~582=417\n417+20=437\n#437",
        ],
    ),
    (
        "523-99=?\n",
        [
            "<consult:verify>523-99=423</consult>",
            "<feedback:verify>523-99=424</feedback>",
            "523-99=424\n#424",
        ],
    ),
    (
        "523-7-30=?\n",
        [
            "<consult:verify>523-7=524</consult>",
            "<feedback:verify>523-7=516</feedback>",
            "523-7=516\n<consult:verify>516-30=526</consult>",
            "<feedback:verify>516-30=486</feedback>",
            "516-30=486\n#486",
        ],
    ),
    (
        "3@7@1@4+5=?\n",
        [
            "<consult:knowledge>3@7</consult>",
            "<feedback:knowledge>3@7=581</feedback>",
            "3@7=581\n1@1=300\n<consult:knowledge>0@4</consult>",
            "<feedback:knowledge>0@4=617</feedback>",
            "0@4=617\n617+5=622\n#622",
        ],
    ),
    # what an agent says wrongly is copied, too
    (
        "3@7+5=?\n",
        [
            "<consult:knowledge>3@7</consult>",
            "<feedback:knowledge>3@7=100</feedback>",
            "3@7=100\n100+5=105\n#105",
        ],
    ),
    # the policy's own line stands where Verify finds it right, and where nobody answers
    (
        "523-99=?\n",
        ["<consult:verify>523-99=423</consult>", "<feedback:verify>right</feedback>", "523-99=423\n#423"],
    ),
    (
        "523-99=?\n",
        ["<consult:verify>523-99=423</consult>", "<notice>Go on alone.</notice>", "523-99=423\n#423"],
    ),
    # without a number there is no answer
    ("3@7+5=?\n", ["<consult:knowledge>3@7</consult>", "<notice>Go on alone.</notice>", "#?"]),
    ("3@7+5=?\n", ["<consult:knowledge>3@7</consult>", "<feedback:knowledge>who?</feedback>", "#?"]),
]


@pytest.mark.parametrize(("prompt", "texts"), TURNS)
def test_the_policys_turns_and_what_agents_say_between_them(prompt: str, texts: list[str]) -> None:
    for place in range(0, len(texts), 2):
        assert next_text(prompt, KNOWN, "".join(texts[:place])) == texts[place]


@pytest.mark.parametrize("split", ["easy_train", "hard", "borrow_train", "nines_train", "shortcut_train"])
def test_with_the_miniatures_agents_every_task_is_solved(split: str) -> None:
    env = Miniature()
    chats = {name: getattr(agents, name)() for name in ("knowledge", "verify", "reasoning")}
    payloads = {
        "knowledge": ("answer", "Request"),
        "verify": ("check", "Claim"),
        "reasoning": ("next", "Request"),
    }
    for task in env.tasks(split)[:40]:
        written, own = "", ""
        while (text := env.turn(task, written)).endswith("</consult>"):
            own += text.partition("<consult:")[0]
            asked = re.search(r"<consult:(.*)>(.*)</consult>", text)
            assert asked
            step, payload = payloads[asked[1]]
            message = f"Task: {step}\nProblem: \n{task.prompt}\n{own}\n{payload}: {asked[2]}"
            reply = str(chats[asked[1]].invoke([HumanMessage(message)]).text).removeprefix("wrong: ")
            written += f"{text}<feedback:{asked[1]}>{reply}</feedback>"
        assert env.score(task, own + text) == {"correct": 1.0, "derivation": 1.0}
        assert ("<consult:" in written) == (
            task.prompt[0] == "~" or split in ("hard", "borrow_train", "shortcut_train")
        )
