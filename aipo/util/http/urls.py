"""Addresses of servers: what is wrong with one, which are on this machine, and which are behind a proxy."""

import ipaddress
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from aipo.errors import ConfigError


class Proxy(NamedTuple):
    """A proxy, and the environment variable that names it."""

    url: str
    variable: str


def is_loopback(host: str) -> bool:
    """Is it an address that only this machine can reach?"""
    number = _number(host)
    if number is not None:
        return number.is_loopback
    name = host.lower().rstrip(".")
    return name == "localhost" or name.endswith(".localhost")


def is_here(host: str) -> bool:
    """Does a request to it stay on this machine? 0.0.0.0 does, too."""
    number = _number(host)
    return is_loopback(host) or (number is not None and number.is_unspecified)


def _number(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that `host` is, if it is no name."""
    with suppress(ValueError):
        number = ipaddress.ip_address(host.strip("[]"))
        return getattr(number, "ipv4_mapped", None) or number
    with suppress(ValueError, OSError):
        return ipaddress.IPv4Address(socket.inet_aton(host))  # short forms: 127.1
    return None


def proxy_of(url: str) -> Proxy | None:
    """The proxy through which the environment sends requests to `url`; None for none. Never one to this machine."""
    parts = urlsplit(url)
    host, proxies = (parts.hostname or "").lower(), getproxies()
    if is_here(host) or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    if any(_excepts(entry.strip().lower(), host) for entry in proxies.get("no", "").split(",")):
        return None
    for scheme in (parts.scheme, "all"):
        if address := proxies.get(scheme):
            names = (f"{scheme}_proxy", f"{scheme}_proxy".upper())
            variable = next((name for name in names if os.environ.get(name)), "the system's settings")
            return Proxy(address if "://" in address else f"http://{address}", variable)
    return None


def _excepts(entry: str, host: str) -> bool:
    """Does an entry of NO_PROXY hold for `host`? It is a name, the end of one, an address or a network."""
    if (number := _number(host)) is not None:
        with suppress(ValueError):
            return number in ipaddress.ip_network(entry, strict=False)
    name = entry.lstrip("*.")
    return entry == "*" or (name != "" and (host == name or host.endswith(f".{name}")))


def plain(url: str) -> str:
    """`url` without login, query and fragment."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def flaw_of(url: str) -> str | None:
    """What is wrong with the address of a server; None if nothing is."""
    if url != "".join(url.split()) or not url.isprintable():
        return "a space or a line break in it"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return str(error)
    if parts.scheme not in ("http", "https") or "://" not in url:
        return "no http:// or https:// before it"
    if not parts.hostname:
        return "no host"
    if port == 0:
        return "port 0"
    if "@" in parts.netloc:
        return "a login in the open"
    if parts.path.rstrip("/").endswith(("/completions", "/responses", "/models")):
        return "the path of a request, not the address of a server"
    return None


def check_servers(urls: Sequence[str], where: str = "policy.vllm.servers") -> None:
    """Refuses addresses of policy servers that are none.

    Args:
        where: the setting, for the error.

    Raises:
        ConfigError: no address, one twice, or a wrong one; says which and why.
    """
    for url in urls:
        flaw = "a path with /v1" if "/v1/" in f"{urlsplit(url).path}/" else None
        if flaw := flaw_of(url) or flaw:
            raise ConfigError(
                f"{where}: got {url!r} ({flaw}), allowed addresses such as http://127.0.0.1:8000 "
                "(without /v1)"
            )
    if not urls or len({url.rstrip("/") for url in urls}) < len(urls):
        raise ConfigError(f"{where}: got {list(urls)}, allowed one or more different addresses")
