"""Replay: stored traces run or computed again to answer "what if". The source is only read.

`recordings.py` reads the stored traces. `policy.py` and `chat.py` are the policy and the chat models that answer from
one of them. A replayed trace keeps the mode of its source and names it as its parent; `Mode.REPLAY` is for traces of
other programs that do not say how their rollouts ran.
"""
