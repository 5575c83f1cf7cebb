"""Addresses that can be asked for, and those that no client, resolver or socket should ever get."""

from __future__ import annotations

import pytest

from sonolora.core.web_address import AddressError, parse_web_address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("https://example.com/a.zip?x=1#y", "example.com", None),
        ("HTTP://Example.COM:81", "example.com", 81),
        ("http://user:p%40ss@host_1.example./x y.zip", "host_1.example.", None),
        ("https://Büro.example/", "xn--bro-hoa.example", None),
        ("http://[2001:DB8::1]:8080/", "2001:db8::1", 8080),
        ("http://127.1/", "127.1", None),
        ("http://" + "a" * 63 + ".example/", "a" * 63 + ".example", None),
        ("http://h:/x", "h", None),
    ],
)
def test_good(text: str, host: str, port: int | None) -> None:
    url = parse_web_address(text)
    assert (url.raw_host.decode().lower(), url.port) == (host, port)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http://xn--a/x.zip", "internationalised"),
        ("http://xn--/", "internationalised"),
        ("http://a..b/", "valid name"),
        ("http://.../", "valid name"),
        ("http://./", "valid name"),
        ("http://" + "a" * 64 + "/", "valid name"),
        ("http://" + "a." * 127 + "b/", "valid name"),
        ("http://exa mple/", "valid name"),
        ("http://exa$mple/", "valid name"),
        ("http://a%2fb/", "valid name"),
        ("http://[fe80::1%25eth0]/", "valid name"),
        ("http://[zz]/", "not a valid URL"),
        ("http://[::1/", "not a valid URL"),
        ("http://256.256.256.256/", "not a valid URL"),
        ("http://a\u3002\u3002b/", "not a valid URL"),
        ("http://h\x00/", "not a valid URL"),
        ("http://h/\x7f", "not a valid URL"),
        ("http://h:99999/", "port is 99999"),
        ("http://h:0/", "port is 0"),
        ("http://h:" + "9" * 5000 + "/", "not a valid URL"),
        ("http://h:x/", "not a valid URL"),
        ("http:///x", "no host"),
        ("http:x", "no host"),
        ("http://?x", "no host"),
        ("http://user:SECRET@/", "no host"),
        ("ftp://h/", "http:// or https://"),
        ("//h/x", "http:// or https://"),
        ("clips.zip", "http:// or https://"),
        ("", "http:// or https://"),
        ("http://h/" + "x" * 70_000, "not a valid URL"),
    ],
)
def test_bad(text: str, words: str) -> None:
    with pytest.raises(AddressError, match=words) as caught:
        parse_web_address(text)
    assert "SECRET" not in str(caught.value)
