"""Who can reach an address."""

from aipo.policies.vllm.addresses import bracketed, is_loopback


def test_loopback() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]")))
    others = ("", "0.0.0.0", "::", "192.168.1.2", "example.org", "localhost.example")
    assert not any(map(is_loopback, others))


def test_ipv6_is_bracketed() -> None:
    assert (bracketed("::1"), bracketed("127.0.0.1")) == ("[::1]", "127.0.0.1")
