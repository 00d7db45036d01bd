"""Settings: what can be set, what is rejected at construction, and what the error says to set."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from clerk_m2m import (
    ClerkClient,
    ConfigurationError,
    MachineTokenAuth,
    ScopeGraph,
    Secret,
    Settings,
    TokenType,
    Verifier,
)
from clerk_m2m.environment import allow_http_from_env, api_url_from_env, key_from_env
from harness import World

CALLEE, CALLER = "mch_" + "c" * 27, "mch_" + "a" * 27
MACHINE_KEY, INSTANCE_KEY = "ak_machine_key_of_the_callee", "sk_test_key_of_the_instance"
GRAPH = {CALLER: [CALLEE]}
PEM = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"


def settings(**given: Any) -> Settings:
    return Settings(**({"machine_id": CALLEE, "machine_secret_key": MACHINE_KEY} | given))


def test_the_defaults_with_only_a_machine_id_and_its_key() -> None:
    made = settings()

    assert made.machine_id == CALLEE
    assert made.machine_secret_key == Secret(MACHINE_KEY)
    assert (made.secret_key, made.jwt_key, made.jwks_url, made.graph) == (None,) * 4
    assert made.api_url == "https://api.clerk.com"
    assert made.allow_http is False
    assert made.accepts == {TokenType.M2M_TOKEN}
    assert made.api_key_header is None
    assert made.oauth_audience is None
    assert (made.graph_ttl, made.graph_max_stale) == (30.0, 300.0)
    assert (made.cache_ttl, made.negative_ttl, made.cache_size) == (60.0, 10.0, 10_000)
    assert (made.stale_if_error, made.timeout, made.max_inflight) == (0.0, 2.0, 20)
    assert not made.verifies_jwts


def test_the_graph_is_live_by_default_when_the_instance_key_is_given() -> None:
    assert settings(secret_key=INSTANCE_KEY).graph == "live"
    assert settings(secret_key=INSTANCE_KEY, graph=GRAPH).graph == ScopeGraph(GRAPH)


def test_a_graph_is_a_value_a_mapping_a_path_or_live() -> None:
    graph = ScopeGraph(GRAPH)

    assert settings(graph=graph).graph is graph
    assert settings(graph=GRAPH).graph == graph
    assert settings(graph="graph.toml").graph == Path("graph.toml")
    assert settings(graph=Path("graph.toml")).graph == Path("graph.toml")
    assert settings(graph="live", secret_key=INSTANCE_KEY).graph == "live"


def test_settings_are_immutable() -> None:
    with pytest.raises(FrozenInstanceError):
        settings().machine_id = CALLER  # type: ignore[misc]


def test_a_key_may_end_with_a_line_break() -> None:
    made = settings(machine_secret_key=MACHINE_KEY + "\n", secret_key=f" {INSTANCE_KEY}\r\n")

    assert made == settings(machine_secret_key=MACHINE_KEY, secret_key=INSTANCE_KEY)


def test_settings_print_no_key() -> None:
    made = settings(secret_key=INSTANCE_KEY)

    assert MACHINE_KEY not in repr(made)
    assert INSTANCE_KEY not in repr(made)


def test_an_address_is_kept_without_its_last_slash_and_a_header_in_lower_case() -> None:
    made = settings(
        secret_key=INSTANCE_KEY,
        api_url="http://127.0.0.1:4010/",
        accepts=["m2m_token", TokenType.API_KEY],
        api_key_header="X-API-Key",
    )

    assert made.api_url == "http://127.0.0.1:4010"
    assert made.api_key_header == "x-api-key"
    assert made.accepts == {"m2m_token", "api_key"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"machine_id": None}, r"Set machine_id \(CLERK_MACHINE_ID\)"),
        ({"machine_id": ""}, r"Set machine_id \(CLERK_MACHINE_ID\)"),
        ({"machine_id": "billing"}, "machine_id .* is not a machine id"),
        ({"machine_id": CALLEE + "\n"}, "machine_id .* is not a machine id"),
        ({"machine_secret_key": None}, r"No key is set. Set machine_secret_key"),
        ({"machine_secret_key": ""}, r"No key is set. Set machine_secret_key"),
        ({"machine_secret_key": INSTANCE_KEY}, "machine_secret_key .* starts with ak_"),
        ({"machine_secret_key": f'"{MACHINE_KEY}"'}, "machine_secret_key .* it is in quotes"),
        ({"machine_secret_key": "ak_a b"}, "machine_secret_key .* holds no spaces"),
        ({"machine_secret_key": "ak_a\nb"}, "machine_secret_key .* no line breaks"),
        ({"machine_secret_key": "ak_é"}, "machine_secret_key .* only ASCII characters"),
        ({"secret_key": MACHINE_KEY}, r"^secret_key \(CLERK_SECRET_KEY\) .* starts with sk_"),
        (
            {"machine_id": None, "machine_secret_key": None, "secret_key": INSTANCE_KEY},
            "nobody would check whether a caller may call",
        ),
        ({"jwt_key": PEM}, "jwt_key or jwks_url is set without a graph"),
        ({"jwks_url": "https://clerk.test/jwks"}, "set graph \\(CLERK_M2M_GRAPH\\)"),
        (
            {"jwt_key": PEM, "jwks_url": "https://clerk.test/jwks", "graph": GRAPH},
            "Set jwt_key or jwks_url, not both",
        ),
        ({"graph": "live"}, r'graph="live" needs secret_key \(CLERK_SECRET_KEY\)'),
        ({"graph": 7}, 'graph must be a ScopeGraph, a mapping, a path, "live", or an object'),
        ({"graph": {CALLER: ["billing"]}}, "'billing' in the scope graph is not a machine id"),
        ({"accepts": ["jwt"]}, '"m2m_token", "api_key", "oauth_token"'),
        ({"accepts": "m2m_token"}, "accepts must be a set of token types"),
        ({"accepts": []}, "accepts is empty"),
        ({"accepts": ["api_key"]}, 'accepts "api_key" needs secret_key'),
        ({"accepts": ["oauth_token"]}, 'accepts "oauth_token" needs secret_key'),
        ({"api_key_header": "x-api-key"}, 'accepts lacks "api_key"'),
        ({"oauth_audience": "https://a.test"}, 'accepts lacks "oauth_token"'),
        ({"api_key_header": "x api key"}, "not the name of a header"),
        ({"api_key_header": "x-é"}, "not the name of a header"),
        ({"api_key_header": "---"}, "not the name of a header"),
        ({"api_key_header": "Authorization"}, "names a header beside Authorization"),
        ({"api_url": "api.clerk.com"}, "api_url must be an http or https address"),
        ({"api_url": "ftp://api.clerk.com"}, "api_url must be an http or https address"),
        ({"api_url": "https://"}, "api_url must be an http or https address"),
        ({"api_url": "https://key@api.clerk.com"}, "with no user name"),
        ({"api_url": "https://["}, "api_url must be an http or https address"),
        ({"api_url": "http://xn--a"}, "api_url must be an http or https address"),
        ({"api_url": "https://host:99999"}, "api_url must be an http or https address"),
        ({"api_url": "https://host:abc"}, "api_url must be an http or https address"),
        ({"api_url": "https://a b"}, "api_url must be an http or https address"),
        ({"api_url": "https://a\x01b"}, "api_url must be an http or https address"),
        ({"api_url": "https://a\nb"}, "api_url must be an http or https address"),
        ({"api_url": "https://api.clerk.com/v2"}, "the bare origin, .* with no path"),
        ({"api_url": "https://api.clerk.com?a"}, "the bare origin, .* with no path"),
        ({"api_url": "https://api.clerk.com#a"}, "the bare origin, .* with no path"),
        ({"jwks_url": "clerk.test/jwks", "graph": GRAPH}, "jwks_url must be an http or https"),
        ({"allow_http": "no"}, "allow_http must be True or False"),
        ({"allow_http": 1}, "allow_http must be True or False"),
        ({"cache_ttl": -1}, "cache_ttl must be a number of seconds, 0 or more"),
        ({"cache_ttl": float("nan")}, "cache_ttl must be a number of seconds"),
        ({"cache_ttl": float("inf")}, "cache_ttl must be a number of seconds"),
        ({"cache_ttl": True}, "cache_ttl must be a number of seconds"),
        ({"cache_ttl": "60"}, "cache_ttl must be a number of seconds"),
        ({"negative_ttl": 10.1}, "negative_ttl must be a number of seconds, 0 to 10"),
        ({"timeout": 0}, "timeout must be a number of seconds, 0.01 to 60"),
        ({"timeout": 61}, "timeout must be a number of seconds, 0.01 to 60"),
        ({"graph_ttl": -1}, "graph_ttl must be a number of seconds"),
        ({"graph_max_stale": None}, "graph_max_stale must be a number of seconds"),
        ({"cache_size": 0}, "cache_size must be a whole number, 1 or more"),
        ({"cache_size": 1.5}, "cache_size must be a whole number"),
        ({"cache_size": True}, "cache_size must be a whole number"),
        ({"max_inflight": 1}, "max_inflight must be a whole number, 2 or more"),
        ({"stale_if_error": -1}, "stale_if_error must be a number of seconds"),
        ({"stale_if_error": 60}, r"stale_if_error .* within cache_ttl \(60 s\)"),
    ],
)
def test_settings_that_cannot_work_are_rejected_and_the_error_says_what_to_set(
    given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said) as refused:
        settings(**given)

    assert refused.value.code == "configuration_invalid"
    assert MACHINE_KEY not in str(refused.value)
    assert INSTANCE_KEY not in str(refused.value)


def test_a_key_set_and_a_graph_are_enough_to_verify_jwts() -> None:
    made = settings(machine_secret_key=None, jwt_key=PEM, graph=GRAPH)

    assert made.verifies_jwts


def test_an_oauth_audience_is_a_string_or_a_list_of_them() -> None:
    def audience(given: Any) -> frozenset[str] | None:
        accepts = ["oauth_token"]
        return settings(
            secret_key=INSTANCE_KEY, accepts=accepts, oauth_audience=given
        ).oauth_audience

    assert audience(None) is None
    assert audience("https://a.test") == frozenset({"https://a.test"})
    assert audience(["https://a.test", "b"]) == frozenset({"https://a.test", "b"})


@pytest.mark.parametrize("value", ["", [], [""], ["https://a.test", ""], ["https://a.test", 7]])
def test_an_empty_or_invalid_oauth_audience_is_rejected(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="oauth_audience must be a string or a list"):
        settings(secret_key=INSTANCE_KEY, accepts=["oauth_token"], oauth_audience=value)


def test_an_oauth_audience_in_the_environment_is_separated_by_commas() -> None:
    environ = {
        "CLERK_MACHINE_ID": CALLEE,
        "CLERK_SECRET_KEY": INSTANCE_KEY,
        "CLERK_M2M_ACCEPTS": "oauth_token",
        "CLERK_M2M_OAUTH_AUDIENCE": "https://a.test, https://b.test",
    }

    assert Settings.from_env(environ).oauth_audience == frozenset(
        {"https://a.test", "https://b.test"}
    )
    with pytest.raises(ConfigurationError, match=r"^CLERK_M2M_OAUTH_AUDIENCE: oauth_audience must"):
        Settings.from_env(environ | {"CLERK_M2M_OAUTH_AUDIENCE": " , "})


def test_a_key_set_without_a_graph_is_enough_for_oauth_tokens_only() -> None:
    made = settings(machine_secret_key=None, jwt_key=PEM, accepts=["oauth_token"])

    assert made.graph is None
    with pytest.raises(ConfigurationError, match=r"Set machine_secret_key"):
        settings(machine_secret_key=None, jwks_url="", jwt_key="", accepts=["m2m_token"])


def test_stale_if_error_may_be_longer_than_cache_ttl() -> None:
    assert settings(stale_if_error=61).stale_if_error == 61.0


# The environment


def test_every_setting_is_read_from_the_environment() -> None:
    made = Settings.from_env(
        {
            "CLERK_MACHINE_ID": CALLEE,
            "CLERK_MACHINE_SECRET_KEY": f" {MACHINE_KEY} \n",
            "CLERK_SECRET_KEY": INSTANCE_KEY,
            "CLERK_JWT_KEY": PEM,
            "CLERK_API_URL": "http://127.0.0.1:4010",
            "CLERK_M2M_ALLOW_HTTP": "1",
            "CLERK_M2M_ACCEPTS": "m2m_token, api_key,",
            "CLERK_M2M_API_KEY_HEADER": "X-API-Key",
            "CLERK_M2M_GRAPH": "graph.toml",
            "CLERK_M2M_GRAPH_TTL": "1.5",
            "CLERK_M2M_GRAPH_MAX_STALE": "2",
            "CLERK_M2M_CACHE_TTL": "3",
            "CLERK_M2M_NEGATIVE_TTL": "4",
            "CLERK_M2M_CACHE_SIZE": "5",
            "CLERK_M2M_STALE_IF_ERROR": "6",
            "CLERK_M2M_TIMEOUT": "7",
            "CLERK_M2M_MAX_INFLIGHT": "8",
            "CLERK_M2M_JWKS_URL": "",
            "HOME": "/root",
        }
    )

    assert made == Settings(
        machine_id=CALLEE,
        machine_secret_key=MACHINE_KEY,
        secret_key=INSTANCE_KEY,
        jwt_key=PEM,
        api_url="http://127.0.0.1:4010",
        allow_http=True,
        accepts=["m2m_token", "api_key"],
        api_key_header="x-api-key",
        graph="graph.toml",
        graph_ttl=1.5,
        graph_max_stale=2,
        cache_ttl=3,
        negative_ttl=4,
        cache_size=5,
        stale_if_error=6,
        timeout=7,
        max_inflight=8,
    )


def test_given_settings_override_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLERK_MACHINE_ID", CALLER)
    monkeypatch.setenv("CLERK_MACHINE_SECRET_KEY", MACHINE_KEY)

    assert Settings.from_env().machine_id == CALLER
    assert Settings.from_env(machine_id=CALLEE).machine_id == CALLEE


def test_the_error_about_an_empty_environment_names_the_variable() -> None:
    with pytest.raises(ConfigurationError, match="CLERK_MACHINE_ID"):
        Settings.from_env({"CLERK_MACHINE_ID": "  "})


@pytest.mark.parametrize("variable", ["CLERK_M2M_CACHE_TTL", "CLERK_M2M_CACHE_SIZE"])
def test_the_error_about_an_invalid_number_names_its_variable(variable: str) -> None:
    environ = {"CLERK_MACHINE_ID": CALLEE, "CLERK_MACHINE_SECRET_KEY": MACHINE_KEY}

    with pytest.raises(ConfigurationError, match=f"{variable} must be a number, without a unit"):
        Settings.from_env(environ | {variable: "1 minute"})


@pytest.mark.parametrize(
    ("text", "allowed"),
    [("1", True), (" true ", True), ("TRUE", True), ("0", False), ("False", False), ("", False)],
)
def test_a_boolean_of_the_environment_is_a_digit_or_a_word(text: str, allowed: bool) -> None:
    environ = {
        "CLERK_MACHINE_ID": CALLEE,
        "CLERK_MACHINE_SECRET_KEY": MACHINE_KEY,
        "CLERK_M2M_ALLOW_HTTP": text,
    }

    assert Settings.from_env(environ).allow_http is allowed
    assert allow_http_from_env(environ) is allowed


@pytest.mark.parametrize("text", ["yes", "2", "tru"])
def test_another_word_for_a_boolean_is_rejected(text: str) -> None:
    environ = {"CLERK_MACHINE_ID": CALLEE, "CLERK_M2M_ALLOW_HTTP": text}

    for read in (Settings.from_env, allow_http_from_env):
        with pytest.raises(ConfigurationError) as refused:
            read(environ)
        assert str(refused.value) == "CLERK_M2M_ALLOW_HTTP must be 1 or true, or 0 or false."


def test_the_callers_side_reads_its_key_and_api_url_from_the_environment() -> None:
    environ = {"CLERK_MACHINE_SECRET_KEY": MACHINE_KEY, "CLERK_API_URL": "http://clerk.test/"}

    assert key_from_env("CLERK_MACHINE_SECRET_KEY", environ) == Secret(MACHINE_KEY)
    assert key_from_env("CLERK_MACHINE_SECRET_KEY", {}) is None
    assert api_url_from_env(environ) == "http://clerk.test"
    assert api_url_from_env({}) == "https://api.clerk.com"


# Errors that only the construction of a verifier finds


def test_an_unreadable_pem_fails_when_the_verifier_is_made() -> None:
    with pytest.raises(ConfigurationError, match=r"jwt_key \(CLERK_JWT_KEY\) is not a PEM"):
        Verifier(settings(jwt_key=PEM, graph=GRAPH))


def test_a_graph_file_that_is_not_there_fails_when_the_verifier_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml cannot be read"):
        Verifier(settings(graph=tmp_path / "nowhere.toml"))


def test_a_verifier_without_settings_reads_the_environment(
    monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    monkeypatch.setenv("CLERK_MACHINE_ID", world.callee.id)
    monkeypatch.setenv("CLERK_MACHINE_SECRET_KEY", world.callee.secret_key)

    assert Verifier().settings.machine_id == world.callee.id


# Plain http

LIVE_KEY = "sk_live_key_of_the_instance"
PLAIN = "http://clerk.internal:4010"


def verifier_at(url: str, **given: Any) -> None:
    Verifier(settings(api_url=url, **given))


def verifier_with_key_set_at(url: str, **given: Any) -> None:
    Verifier(settings(jwks_url=f"{url}/jwks", graph=GRAPH, **given))


def client_at(url: str, **given: Any) -> None:
    ClerkClient(api_url=url, **given)


def auth_at(url: str, **given: Any) -> None:
    MachineTokenAuth(MACHINE_KEY, api_url=url, **given)


MAKERS = [verifier_at, verifier_with_key_set_at, client_at, auth_at]
NO_LOOPBACK = [
    PLAIN,
    "HTTP://clerk.internal",
    "http://localhost.evil.test",
    "http://clerk.localhost",
    "http://localhost.",
    "http://127.1",
    "http://2130706433",
    "http://0.0.0.0:4010",
    "http://192.168.1.5",
    "http://[::ffff:127.0.0.1]",
    "http://[fe80::1]",
]
LOOPBACK = [
    "http://localhost:4010",
    "HTTP://LOCALHOST",
    "http://127.0.0.1:4010",
    "http://127.8.9.1",
    "http://[::1]:4010",
    "http://[0:0:0:0:0:0:0:1]",
]


def errors_of(make: Any, *urls: str, **given: Any) -> dict[str, str]:
    """Return the URLs that are rejected, each with the text of the error."""
    found = {}
    for url in urls:
        try:
            make(url, **given)
        except ConfigurationError as exc:
            found[url] = f"{exc.code}: {exc}"
    return found


@pytest.mark.parametrize("make", MAKERS)
def test_plain_http_is_rejected_off_loopback_only(make: Any) -> None:
    urls = [*LOOPBACK, "https://clerk.internal", *NO_LOOPBACK]

    errors = errors_of(make, *urls)

    assert list(errors) == NO_LOOPBACK
    for text in errors.values():
        assert text.startswith("configuration_invalid: ")
        assert "must be https" in text
        assert "CLERK_M2M_ALLOW_HTTP=1" in text
    assert errors_of(make, *urls, allow_http=True) == {}


@pytest.mark.parametrize("make", [verifier_at, verifier_with_key_set_at, client_at])
@pytest.mark.parametrize("allow_http", [False, True])
def test_a_live_key_with_plain_http_off_loopback_is_always_rejected(
    make: Any, allow_http: bool
) -> None:
    with pytest.raises(ConfigurationError, match="must be https: secret_key is a live") as refused:
        make(PLAIN, secret_key=LIVE_KEY, allow_http=allow_http)

    assert refused.value.code == "configuration_invalid"
    assert LIVE_KEY not in str(refused.value)
    make("http://127.0.0.1:4010", secret_key=LIVE_KEY)


def test_any_address_is_allowed_with_an_injected_transport(world: World) -> None:
    given: dict[str, Any] = {"transport": world.upstream}
    makers = [
        lambda url: Verifier(settings(api_url=url, secret_key=INSTANCE_KEY), **given),
        lambda url: Verifier(settings(api_url=url, secret_key=LIVE_KEY), **given),
        lambda url: Verifier(settings(jwks_url=f"{url}/jwks", graph=GRAPH), **given),
        lambda url: ClerkClient(api_url=url, secret_key=LIVE_KEY, **given),
        lambda url: MachineTokenAuth(MACHINE_KEY, api_url=url, **given),
    ]

    assert [errors_of(make, PLAIN) for make in makers] == [{}] * len(makers)


def test_the_callers_side_reads_from_the_environment_whether_plain_http_is_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CLERK_API_URL", PLAIN)
    with pytest.raises(ConfigurationError, match="CLERK_M2M_ALLOW_HTTP=1"):
        MachineTokenAuth(MACHINE_KEY)

    monkeypatch.setenv("CLERK_M2M_ALLOW_HTTP", "1")
    MachineTokenAuth(MACHINE_KEY)
    with pytest.raises(ConfigurationError, match="must be https"):
        MachineTokenAuth(MACHINE_KEY, allow_http=False)
    with pytest.raises(ConfigurationError, match="allow_http must be True or False"):
        ClerkClient(allow_http="no")  # type: ignore[arg-type]
