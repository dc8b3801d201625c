"""Addresses of servers: who can reach one, and how it is written."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Is it an address that only this machine can reach?"""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def bracketed(host: str) -> str:
    """A host as it stands in addresses: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host
