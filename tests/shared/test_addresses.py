"""The guard: where webhooks may go, and in how many ways a private address can be written."""

import pytest

from shared import addresses
from shared.addresses import AddressRefused, parse_networks, parse_url

NONE = ()
FACTORY = parse_networks("10.20.0.0/16, fd12::/16")

PRIVATE = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.0.0.1",
    "10.255.255.255",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",  # carrier-grade NAT
    "100.127.255.254",
    "169.254.1.1",  # link-local
    "192.0.0.8",
    "192.0.2.1",
    "198.18.0.1",  # benchmarking
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",  # multicast
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd12:3456::1",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
    "100::1",  # discard
    "::ffff:127.0.0.1",  # mapped: the kernel connects to the inner one
    "::ffff:10.0.0.1",
    "::ffff:169.254.1.1",
    "::10.0.0.1",  # IPv4-compatible
    "64:ff9b::a00:1",  # NAT64 of 10.0.0.1
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",  # NAT64 of the local network's choosing
    "2002:a00:1::1",  # 6to4 of 10.0.0.1
    "2002:7f00:1::",
    "2001:0:4136:e378:8000:63bf:f5ff:fffe",  # Teredo whose client is 10.0.0.1
]
METADATA = [
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "fd00:ec2::254",
    "fd20:ce::254",
    "169.254.0.23",
    "169.254.42.42",
    "fd00:42::42",
    "fe80::a9fe:a9fe",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::",
]
WRITTEN = [
    # Forms that inet_aton takes; the resolver turns them into what is connected to.
    "2130706433",
    "0x7f000001",
    "017700000001",
    "127.1",
    "0177.0.0.1",
    "0x7f.0.0.1",
    "localhost",
    "[::1]",
    "[::ffff:7f00:1]",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public_is_refused_and_the_setting_is_named(address):
    with pytest.raises(AddressRefused, match="DEFECTSCOPE_WEBHOOK_ALLOWED_CIDRS"):
        addresses.check("https", "mes.example", [address], NONE)


@pytest.mark.parametrize("address", METADATA)
def test_metadata_addresses_are_refused_whatever_the_settings_say(address):
    everything = parse_networks("0.0.0.0/0, ::/0")

    with pytest.raises(AddressRefused, match="no setting allows it"):
        addresses.check("https", "mes.example", [address], everything)


@pytest.mark.parametrize("host", WRITTEN)
def test_other_ways_to_write_an_address_change_nothing(host):
    target = parse_url(f"https://{host}/hook")
    found = addresses.look_up(target.host, target.port)

    with pytest.raises(AddressRefused):
        addresses.check(target.scheme, target.host, found, NONE)


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111"])
def test_public_addresses_are_for_https(address):
    assert addresses.check("https", "mes.example", [address], NONE) == [address]
    with pytest.raises(AddressRefused, match="Use https"):
        addresses.check("http", "mes.example", [address], NONE)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("address", ["10.20.3.4", "fd12::7", "::ffff:10.20.3.4"])
def test_networks_that_the_operator_names_are_open(scheme, address):
    named = (*FACTORY, *parse_networks("::ffff:10.20.0.0/112"))

    assert addresses.check(scheme, "mes.plant", [address], named) == [address]


def test_one_refused_address_among_good_ones_refuses_the_name():
    with pytest.raises(AddressRefused):
        addresses.check("https", "rebinding.example", ["93.184.216.34", "127.0.0.1"], NONE)


@pytest.mark.parametrize("found", [[], ["10.20.3.4"], ["fd12::7"], ["93.184.216.34", "127.0.0.1"]])
def test_a_refusal_does_not_say_what_a_name_of_our_network_leads_to(found):
    with pytest.raises(AddressRefused) as refused:
        addresses.check("https", "files.plant", found, NONE)

    # The same for a name that does not exist: trying names finds none.
    assert str(refused.value) == (
        "files.plant leads nowhere, or to an address that is not public. If your MES lives there, "
        "have the operator put its network into DEFECTSCOPE_WEBHOOK_ALLOWED_CIDRS, for instance "
        "DEFECTSCOPE_WEBHOOK_ALLOWED_CIDRS=10.20.0.0/16."
    )


def test_a_name_of_the_metadata_service_is_refused_without_its_address():
    with pytest.raises(AddressRefused, match="credentials") as refused:
        addresses.check("https", "metadata.example", ["169.254.169.254"], NONE)

    assert "169.254" not in str(refused.value)


@pytest.mark.parametrize("address", ["10.20.3.4", "fd12::7"])
def test_an_address_that_was_given_is_named(address):
    with pytest.raises(AddressRefused, match=f"^{address} is not a public address"):
        addresses.check("https", address, [address], NONE)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://mes.example/",
        "file:///etc/passwd",
        "mes.example/hook",
        "//mes.example/hook",
        "https://",
        "https:///hook",
        "https://user@mes.example/",
        "https://user:pass@mes.example/",
        "https://good.example@127.0.0.1/",
        "https://mes.example/#part",
        "https://mes.example:99999/",
        "https://mes.example:0/",
        "https://mes.example:port/",
        "https://mes .example/",
        "https://mes.example/a b",
        "https://mes.example\\@127.0.0.1/",
        "https://mes.example/\r\nX-Header: 1",
        "https://mës.example/",
        "https://[::1/",
        "https://%6c%6fcalhost/",
        "https://" + "a" * 2000 + ".example/",
    ],
)
def test_what_is_no_plain_url_is_refused(url):
    with pytest.raises(AddressRefused):
        parse_url(url)


def test_a_url_is_taken_apart_once():
    target = parse_url("https://MES.example:8443/hook/a?line=2")

    assert (target.host, target.port, target.path) == ("mes.example", 8443, "/hook/a?line=2")
    assert parse_url("http://mes.example").port == 80
    assert parse_url("https://mes.example?x=1").path == "/?x=1"
