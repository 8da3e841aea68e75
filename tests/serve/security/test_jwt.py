"""JSON Web Tokens over real sockets: of the wrong key, issuer, audience, time, algorithm; and the right ones."""

import base64
import hashlib
import hmac
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from ntm_serve.auth.authenticator import REMEMBERED_MAX, Authenticator
from ntm_serve.auth.jwts import LEEWAY_S, Jwts, JwtSettings
from ntm_serve.caller import Credentials
from ntm_serve.client import Client
from ntm_serve.errors import PermissionDenied, SettingsFault, Unauthenticated
from ntm_serve.renewal import Renewed
from ntm_serve.testing import ManualClock, RunningSum, test_server

from .conftest import replace, until

ISSUER, AUDIENCE = "https://issuer.example", "ntm-serve"


class Issuer:
    """Signs tokens, and keeps its public keys in a file."""

    def __init__(self, path):
        self.path = path
        self.keys = {"one": rsa.generate_private_key(65537, 2048)}
        self.publish()

    @property
    def settings(self):
        return {"auth_jwt_keys": self.path, "auth_jwt_issuer": ISSUER, "auth_jwt_audience": AUDIENCE}

    @property
    def jwts(self):
        return JwtSettings(self.path, ISSUER, AUDIENCE)

    def publish(self):
        replace(self.path, json.dumps({"keys": [public(key, kid) for kid, key in self.keys.items()]}).encode())

    def token(self, *, kid="one", key=None, algorithm=None, headers=None, **claims):
        key = key or self.keys[kid]
        said = {"iss": ISSUER, "aud": AUDIENCE, "sub": "gateway", "tenant": "acme", "exp": time.time() + 600} | claims
        said = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(said, key, algorithm or kind_of(key), headers=headers or {"kid": kid})


def kind_of(key):
    kinds = {rsa.RSAPrivateKey: "RS256", ec.EllipticCurvePrivateKey: "ES256", ed25519.Ed25519PrivateKey: "EdDSA"}
    return next(name for kind, name in kinds.items() if isinstance(key, kind))


def public(key, kid):
    algorithm = jwt.get_algorithm_by_name(kind_of(key))
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, "alg": kind_of(key)}


@pytest.fixture
def issuer(tmp_path):
    return Issuer(tmp_path / "keys.json")


@pytest.fixture
def server(issuer):
    with test_server([RunningSum()], **issuer.settings) as running:
        yield running


def tenants_sessions(server, token):
    with Client(server.target, retry=None, timeout_s=20, token=token) as ours:
        ours.session("running-sum", session_id="s", resume=True)
        return [info.session_id for info in ours.sessions()]


def test_a_token_of_the_issuer_says_whose_its_bearer_is(server, issuer):
    assert tenants_sessions(server, issuer.token()) == ["s"]
    assert tenants_sessions(server, issuer.token(tenant="other", sub="b")) == ["s"]
    with Client(server.target, token=issuer.token(roles=["admin", "cook"])) as admin:
        assert [(one.tenant, one.session_id) for one in admin.all_sessions()] == [("acme", "s"), ("other", "s")]
    with Client(server.target, retry=None, token=issuer.token(roles=["cook"])) as ours, pytest.raises(PermissionDenied):
        list(ours.all_sessions())


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()])
def test_keys_of_curves_are_taken(tmp_path, key):
    issuer = Issuer(tmp_path / "keys.json")
    issuer.keys["curve"] = key
    issuer.publish()
    caller = Jwts(issuer.jwts).verified(issuer.token(kid="curve"))
    assert (caller.name, caller.tenant) == ("gateway", "acme")


OTHER_KEY = rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"aud": "another"}, "it is for another audience"),
        ({"aud": None}, "it lacks a claim"),
        ({"iss": "https://other.example"}, "it is of another issuer"),
        ({"iss": None}, "it lacks a claim"),
        ({"exp": time.time() - 2 * LEEWAY_S}, "it has ended"),
        ({"exp": None}, "it lacks a claim"),
        ({"exp": 10**400}, "it is no token of the issuer's"),
        ({"sub": None}, "it lacks a claim"),
        ({"nbf": time.time() + 10**6}, "it has not begun"),
        ({"key": OTHER_KEY}, "its signature is not that of its key"),
        ({"headers": {"kid": "two"}}, "its key is none of the issuer's"),
        ({"tenant": None}, "claim tenant: expected a tenant"),
        ({"tenant": "a|b"}, "claim tenant: expected a tenant"),
        ({"tenant": ""}, "claim tenant: expected a tenant"),
        ({"tenant": ["acme"]}, "claim tenant: expected a tenant"),
        ({"roles": "admin"}, "claim roles: expected a list"),
        ({"algorithm": "RS512"}, "its algorithm is not that of its key"),
    ],
)
def test_a_token_that_is_not_right_is_refused(server, issuer, said, why):
    token = issuer.token(**said)
    with Client(server.target, retry=None, token=token) as theirs, pytest.raises(Unauthenticated, match=why) as raised:
        theirs.models()
    assert not any(part in raised.value.message for part in token.split("."))


def test_a_token_without_a_signature_is_refused(server, issuer):
    bare = jwt.encode(
        {"iss": ISSUER, "aud": AUDIENCE, "sub": "x", "tenant": "acme", "exp": time.time() + 60}, None, "none"
    )
    with Client(server.target, retry=None, token=bare) as theirs, pytest.raises(Unauthenticated):
        theirs.models()


def test_a_token_signed_with_the_public_key_is_refused(issuer):
    """The old trick: what everybody may read, taken as the secret of an HMAC."""
    pem = (
        issuer.keys["one"]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    said = {"iss": ISSUER, "aud": AUDIENCE, "sub": "x", "tenant": "acme", "exp": time.time() + 60}
    forged = hmac_signed(said, pem)
    with pytest.raises(Unauthenticated, match="its algorithm is not that of its key"):
        Jwts(issuer.jwts).verified(forged)


DEEP = base64.urlsafe_b64encode(b"[" * 6000 + b"]" * 6000).decode()


@pytest.mark.parametrize("text", ["", ".", "..", "a.b.c", "e30.e30.", "x" * 8000, "\x7f", f"{DEEP}.{DEEP}.{DEEP}"])
def test_what_is_no_token_is_refused(issuer, text):
    with pytest.raises(Unauthenticated):
        Jwts(issuer.jwts).verified(text)


def test_a_new_key_is_taken_and_one_that_was_withdrawn_is_not(server, issuer):
    old, kept = issuer.token(), issuer.keys.pop("one")
    assert tenants_sessions(server, old) == ["s"]
    issuer.keys["two"] = rsa.generate_private_key(65537, 2048)
    issuer.publish()

    def withdrawn():
        with Client(server.target, retry=None, token=old) as theirs:
            try:
                return not theirs.models()
            except Unauthenticated:
                return True

    until(withdrawn)
    assert tenants_sessions(server, issuer.token(kid="two")) == ["s"]
    assert kept


def test_a_verified_token_is_remembered_until_it_ends(issuer, monkeypatch):
    now = ManualClock(time.time())
    jwts = Renewed("keys", [issuer.path], lambda: Jwts(issuer.jwts))
    authenticator = Authenticator(None, jwts, now_s=now)
    looked = []
    verified = Jwts.verified
    monkeypatch.setattr(Jwts, "verified", lambda self, token: looked.append(1) or verified(self, token))
    token = issuer.token(exp=time.time() + 60)
    for _ in range(5):
        assert authenticator.authenticate(Credentials(token)).tenant == "acme"
    assert len(looked) == 1
    now.advance(60 + LEEWAY_S + 1)
    authenticator.authenticate(Credentials(token))
    assert len(looked) == 2
    for number in range(REMEMBERED_MAX + 10):
        authenticator._verified[number.to_bytes(4)] = authenticator.authenticate(Credentials(token))
    authenticator.authenticate(Credentials(issuer.token(sub="another")))
    assert len(authenticator._verified) <= REMEMBERED_MAX


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("no json", "expected a JWK set"),
        ('{"keys": []}', "expected a JWK set"),
        (
            '{"keys": [{"kty": "oct", "kid": "a", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}]}',
            "a private or symmetric one: a;",
        ),
        ("[" * 100_000, "expected a JWK set"),
        ('{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": "none"}]}', "expected a JWK set"),
        (
            f'{{"keys": [{{"kty": "OKP", "crv": "Ed25519", "x": "{"A" * 43}", "kid": ["a"]}}]}}',
            "expected a text as `kid`",
        ),
    ],
)
def test_keys_that_cannot_be_used_keep_a_server_from_starting(tmp_path, text, fault):
    file = tmp_path / "keys.json"
    file.write_text(text)
    with pytest.raises(SettingsFault, match=fault) as raised:
        Jwts(JwtSettings(file, ISSUER, AUDIENCE))
    assert "c2VjcmV0" not in raised.value.message


@pytest.mark.parametrize("text", ["[" * 100_000, '{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": "none"}]}'])
def test_renewed_keys_that_nobody_thought_of_take_nothing_from_anybody(issuer, capfd, text):
    token = issuer.token()
    with test_server([RunningSum()], **issuer.settings) as server:
        replace(issuer.path, text.encode())
        until(lambda: "renewed files cannot be used" in "".join(capfd.readouterr()))
        assert tenants_sessions(server, token) == ["s"]
        issuer.keys["two"] = rsa.generate_private_key(65537, 2048)
        issuer.publish()
        until(lambda: "files were renewed" in "".join(capfd.readouterr()))
        assert tenants_sessions(server, issuer.token(kid="two")) == ["s"]


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP256R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
)
def test_a_set_with_a_private_key_keeps_a_server_from_starting_and_is_not_taken_in_place_of_another(issuer, capfd, key):
    whole = json.loads(jwt.get_algorithm_by_name(kind_of(key)).to_jwk(key)) | {"kid": "leaked", "alg": kind_of(key)}
    mixed = json.dumps({"keys": [public(issuer.keys["one"], "one"), whole]})
    token = issuer.token()
    with test_server([RunningSum()], **issuer.settings) as server:
        replace(issuer.path, mixed.encode())
        until(lambda: "a private or symmetric one: leaked;" in "".join(capfd.readouterr()))
        assert tenants_sessions(server, token) == ["s"]
    with (
        pytest.raises(
            SettingsFault, match=r"expected public keys alone in .*, got a private .* one: leaked;"
        ) as raised,
        test_server([RunningSum()], **issuer.settings),
    ):
        pass
    assert whole["d"] not in str(raised.value)


def test_settings_of_tokens_are_all_or_none(issuer):
    with (
        pytest.raises(SettingsFault, match="expected all of them or none"),
        test_server([RunningSum()], auth_jwt_keys=issuer.path),
    ):
        pass


def hmac_signed(claims, secret):
    """As a library without care would sign; ours refuses to."""

    def part(data):
        return base64.urlsafe_b64encode(json.dumps(data).encode()).rstrip(b"=")

    signed = part({"alg": "HS256", "kid": "one"}) + b"." + part(claims)
    seal = base64.urlsafe_b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).rstrip(b"=")
    return (signed + b"." + seal).decode()
