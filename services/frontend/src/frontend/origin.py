"""Who asks, under which name, and from which page: what the headers of a request say, and how far to believe them."""

import ipaddress
from collections.abc import Collection
from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
# One line of a provider's customer is a /64 at least: by single addresses it could ask without end.
IPV6_CLIENT_BITS = 64


class Sender(NamedTuple):
    """`client`: an address, or an IPv6 network of 64 bits. `encrypted`: whether the client itself speaks TLS."""

    client: str
    encrypted: bool


def sender(scope: Scope, headers: Headers, trusted_proxies: int) -> Sender:
    """Who sent this. Each of the `trusted_proxies` before us appends the address that it was asked from, so the client
    stands that many places from the end of X-Forwarded-For; what stands before it anybody may have written."""
    peer = scope.get("client")
    address, encrypted = peer[0] if peer else "", scope.get("scheme") == "https"
    if trusted_proxies:
        hops = [hop.strip() for line in headers.getlist("x-forwarded-for") for hop in line.split(",")]
        if hops and _network(hops[-trusted_proxies:][0]):
            address = hops[-trusted_proxies:][0]
        encrypted = encrypted or headers.get("x-forwarded-proto", "").strip().lower() == "https"
    return Sender(_network(address) or "unknown", encrypted)


def _network(address: str) -> str:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, IPV6_CLIENT_BITS), strict=False))


def known_host(headers: Headers, allowed: Collection[str]) -> bool:
    """Whether the name that the client looked up is one of ours (any, when none is given), whatever the port. A page
    elsewhere may point a name of its own at our address, and to the browser it is then the same site."""
    host = headers.get("host", "").lower()
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    return not allowed or name in allowed


def same_origin(headers: Headers) -> bool:
    """Whether a request that changes something may: it comes from our own pages, or from no browser at all.

    Every browser of today sends Sec-Fetch-Site over HTTPS and to loopback; over plain HTTP and from older ones there is
    an Origin with every such request. A program sends neither.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    # Only the host: behind a load balancer the scheme differs.
    return origin is None or _authority(origin) == headers.get("host", "").lower()


def _authority(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None
