"""Challenges of real servers and the examples of RFC 2617, RFC 7616 and RFC 7617."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import pytest

from streamer.core.digest_auth import (
    AuthenticationUnsupportedError,
    Authenticator,
    Challenge,
    authorization,
    choose_challenge,
    parse_challenges,
)

RFC_7616 = {
    "realm": "http-auth@example.org",
    "qop": "auth, auth-int",
    "nonce": "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
    "opaque": "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS",
}
CNONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"


def digest(**parameters: str) -> Challenge:
    return Challenge("digest", parameters)


def fields(value: str) -> dict[str, str]:
    """Return the fields of an `Authorization` header, by a reader other than the tested one."""
    assert value.startswith("Digest ")
    return {name: text.strip('"') for name, text in re.findall(r'(\w+)=("[^"]*"|[^",\s]+)', value)}


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_responses_of_rfc_7616(algorithm: str, response: str) -> None:
    challenge = digest(**RFC_7616, algorithm=algorithm)
    value = authorization(challenge, "Mufasa", "Circle of Life", "GET", "/dir/index.html", cnonce=CNONCE)
    assert fields(value) == {
        "username": "Mufasa",
        "realm": RFC_7616["realm"],
        "nonce": RFC_7616["nonce"],
        "opaque": RFC_7616["opaque"],
        "uri": "/dir/index.html",
        "algorithm": algorithm,
        "qop": "auth",
        "nc": "00000001",
        "cnonce": CNONCE,
        "response": response,
    }


def test_hashed_user_name_of_rfc_7616() -> None:
    """The example of RFC 7616 with SHA-512-256, with the value of erratum 4897."""
    challenge = digest(
        realm="api@example.org",
        qop="auth",
        algorithm="SHA-512-256",
        nonce="5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK",
        opaque="HRPCssKJSGjCrkzDg8OhwpzCiGPChXYjwrI2QmXDnsOS",
        charset="UTF-8",
        userhash="true",
    )
    found = fields(authorization(challenge, "Jäsøn Doe", "Secret, or not?", "GET", "/doe.json", cnonce="c"))
    assert found["username"] == "793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b"
    assert found["userhash"] == "true"

    def sha(text: str) -> str:
        return hashlib.new("sha512_256", text.encode()).hexdigest()

    key, request = sha("Jäsøn Doe:api@example.org:Secret, or not?"), sha("GET:/doe.json")
    assert found["response"] == sha(f"{key}:{challenge.parameters['nonce']}:00000001:c:auth:{request}")


RFC_2617 = {"realm": "testrealm@host.com", "nonce": "dcd98b7102dd2f0e8b11d0f600bfb0c093"}


@pytest.mark.parametrize(
    ("parameters", "response"),
    [
        ({"qop": "auth,auth-int"}, "6629fae49393a05397450978507c4ef1"),
        ({}, "670fd8c2df070c60b045671b8b24ff02"),
    ],
    ids=["auth", "without-qop"],
)
def test_responses_of_rfc_2617(parameters: Mapping[str, str], response: str) -> None:
    challenge = digest(**RFC_2617, **parameters)
    uri = "/dir/index.html"
    found = fields(authorization(challenge, "Mufasa", "Circle Of Life", "GET", uri, cnonce="0a4f113b"))
    assert found["response"] == response
    assert ("cnonce" in found) == ("qop" in found) == bool(parameters)
    assert "algorithm" not in found, "a server that names no algorithm may know none"


def test_basic_value_of_rfc_7617() -> None:
    assert authorization(Challenge("basic", {}), "test", "123£", "GET", "/") == "Basic dGVzdDoxMjPCow=="


def test_auth_int_covers_the_body() -> None:
    challenge = digest(realm="r", nonce="n", qop="auth-int")
    found = fields(authorization(challenge, "u", "p", "ANNOUNCE", "rtsp://h/x", b"v=0", count=18, cnonce="c"))
    request = md5(f"ANNOUNCE:rtsp://h/x:{md5('v=0')}")
    assert found["response"] == md5(f"{md5('u:r:p')}:n:00000012:c:auth-int:{request}")
    assert found["nc"] == "00000012"


def test_session_variant_hashes_nonces_into_the_key() -> None:
    found = fields(authorization(digest(realm="r", nonce="n", algorithm="MD5-sess"), "u", "p", "GET", "/", cnonce="c"))
    key = md5(f"{md5('u:r:p')}:n:c")
    assert found["response"] == md5(f"{key}:n:{md5('GET:/')}")
    assert found["cnonce"] == "c"


def test_quotes_in_realm_and_user_are_escaped() -> None:
    (challenge,) = parse_challenges([r'Digest realm="a \"b\" \\c", nonce="n"'])
    value = authorization(challenge, 'u"', "p", "GET", "/")
    assert r'realm="a \"b\" \\c"' in value
    assert r'username="u\""' in value
    key = md5(r'u":a "b" \c:p')
    assert md5(f"{key}:n:{md5('GET:/')}") in value


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (['Basic realm="x"'], [("basic", {"realm": "x"})]),
        (['Digest realm="a, b=c", stale=TRUE'], [("digest", {"realm": "a, b=c", "stale": "TRUE"})]),
        (
            ['Basic realm="x", Digest realm="y",nonce="z" , qop="auth,auth-int"'],
            [("basic", {"realm": "x"}), ("digest", {"realm": "y", "nonce": "z", "qop": "auth,auth-int"})],
        ),
        (['Digest realm="y"', 'Basic realm="x"'], [("digest", {"realm": "y"}), ("basic", {"realm": "x"})]),
        (["Negotiate, NTLM"], [("negotiate", {}), ("ntlm", {})]),
        (['DIGEST Realm = "y" nonce="z"'], [("digest", {"realm": "y", "nonce": "z"})]),
        (["", ", ,", '"', "=", 'realm="x"', "\x00\x7f\n"], []),
    ],
)  # fmt: skip
def test_challenges_are_parsed(headers: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    found = [(challenge.scheme, dict(challenge.parameters)) for challenge in parse_challenges(headers)]
    assert found == expected


@pytest.mark.parametrize(
    "headers", [["Negotiate YII+/w==", 'Digest realm="x"'], ['Digest realm="x", nonce="open', "Negotiate"]]
)
def test_odd_values_hide_no_other_challenge(headers: list[str]) -> None:
    found = parse_challenges(headers)
    assert {"negotiate", "digest"} <= {challenge.scheme for challenge in found}
    assert [challenge.parameters["realm"] for challenge in found if challenge.scheme == "digest"] == ["x"]


@pytest.mark.parametrize("text", ['a="' * 30_000, 'Digest realm="\\' * 10_000, "," * 60_000, "x " * 30_000])
def test_long_headers_are_read_in_part(text: str) -> None:
    assert len(parse_challenges([text])) <= 10_000


@pytest.mark.parametrize(
    ("header", "chosen"),
    [
        ('Basic realm="x", Digest realm="y", nonce="z"', "md5"),
        ('Digest realm="y", nonce="z", algorithm=MD5, Digest realm="y", nonce="z", algorithm=SHA-256', "sha-256"),
        ('Digest algorithm=SHA-512-256, Digest algorithm=SHA-256', "sha-512-256"),
        ('Digest algorithm=SHA-512, Digest algorithm="md5"', "md5"),
        ('Digest algorithm=SHA-256, qop="vendor", Digest algorithm=MD5-sess', "md5-sess"),
        ('Digest algorithm=SHA256', "sha-256"),
    ],
)  # fmt: skip
def test_strongest_known_challenge_is_chosen(header: str, chosen: str) -> None:
    assert choose_challenge(parse_challenges([header])).algorithm == chosen


@pytest.mark.parametrize(
    ("header", "names"),
    [
        ("Negotiate, NTLM", "NEGOTIATE or NTLM"),
        ("Digest algorithm=SHA3-256", "SHA3-256 digest"),
        ('Digest algorithm=SHA-256, qop="vendor"', "digest of an unknown protection (qop)"),
        ("Gar4den-gate x=1", "an unknown kind of"),
        ("Digest algorithm=Gar4den", "unknown digest"),
    ],
)
def test_unknown_authentication_is_named(header: str, names: str) -> None:
    with pytest.raises(AuthenticationUnsupportedError) as caught:
        choose_challenge(parse_challenges([header]))
    assert str(caught.value) == f"needs {names} authentication, which streamer does not speak"


def test_missing_challenge_is_told() -> None:
    with pytest.raises(AuthenticationUnsupportedError, match="refuses access without saying which"):
        choose_challenge([])


def test_expired_nonce_is_answered_with_the_new_one() -> None:
    login = Authenticator("u", "p")
    assert login.authorization("GET", "/") is None
    assert login.accept(['Digest realm="r", nonce="1", qop="auth"'], tries=1)
    counts = [fields(login.authorization("GET", "/") or "")["nc"] for _ in range(2)]
    assert counts == ["00000001", "00000002"]
    assert login.accept(['Digest realm="r", nonce="2", qop="auth", stale=true'], tries=2)
    found = fields(login.authorization("GET", "/") or "")
    assert (found["nonce"], found["nc"]) == ("2", "00000001")
    assert not login.accept(['Digest realm="r", nonce="3", qop="auth", stale=true'], tries=3)


def test_wrong_password_is_tried_once() -> None:
    login = Authenticator("u", "p")
    assert login.accept(['Digest realm="r", nonce="1"'], tries=1)
    assert not login.accept(['Digest realm="r", nonce="2"'], tries=2)
