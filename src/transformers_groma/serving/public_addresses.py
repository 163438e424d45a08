"""Tells public internet addresses from all others: private, loopback, link-local, and those that hide another."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

# Addresses of IPv6 that stand for one of IPv4, which may be any: mapped, compatible, translated (NAT64), 6to4, Teredo.
_DISGUISES = [
    ip_network(network)
    for network in (
        "::/96",
        "::ffff:0:0/96",
        "::ffff:0:0:0/96",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2001::/32",
        "2002::/16",
    )
]
# Old site-local addresses, those of protocols and clouds (192.0.0.192 is Oracle's), and Azure's service for its
# machines: not all versions of Python know that these are not global.
_INTERNAL = [ip_network(network) for network in ("fec0::/10", "192.0.0.0/24", "168.63.129.16/32")]


def is_public_address(address: str) -> bool:
    """Whether an address belongs to a machine on the public internet.

    Args:
        address (`str`): an IPv4 or IPv6 address.

    Returns:
        `bool`: `False` for private, loopback, link-local, shared, multicast, reserved, unspecified and documentation
        addresses, for IPv6 addresses that stand for an IPv4 address, and for text that is not an address.

    Example:
    >>> [is_public_address(address) for address in ("1.1.1.1", "127.0.0.1", "10.0.0.1", "::ffff:1.1.1.1")]
    [True, False, False, False]
    """
    try:
        parsed: IPv4Address | IPv6Address = ip_address(address)
    except ValueError:
        return False
    # A zone (fe80::1%eth0) names an interface of this machine.
    if isinstance(parsed, IPv6Address) and parsed.scope_id is not None:
        return False
    networks = [network for network in (*_DISGUISES, *_INTERNAL) if network.version == parsed.version]
    if any(parsed in network for network in networks):
        return False
    # Some addresses for groups, and some that nobody has yet, count as global.
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved


__all__ = ["is_public_address"]
