"""Against a Kafka that lets in only whom it knows: whatever is wrong is said at once, by its true
reason, with what to do."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.broker import Kafka
from tests.support.commands import gworkers
from tests.support.secured import KEY_PASSWORD, PASSWORDS, SecuredKafka, token
from tests.support.servers import configuration, consume, create_topic, produce, unique, until

#: One broker for all of them.
pytestmark = pytest.mark.xdist_group("secured")

#: How long a sentence may take, in seconds: less than what waits for a time-out, which is 30 s and
#: more; Python's start and one attempt take one, or four on a machine that is busy.
AT_ONCE = 15.0

APP = """
import os, time
def handle(value):
    return value
def fail(value):
    raise ValueError("x")
class Tokens:
    def token(self):
        time.sleep(0.05)  # as one that asks a server does
        return open(os.path.join(os.path.dirname(__file__), "token")).read()
class Broken:
    def token(self):
        raise OSError("the identity provider is away")
tokens = Tokens()
nothing = object()
"""

PASSWORD = {
    "security_protocol": "SASL_PLAINTEXT",
    "sasl_mechanism": "PLAIN",
    "sasl_plain_username": "shop",
    "sasl_plain_password": PASSWORDS["shop"],
}
OAUTH = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_provider": "app:tokens"}


@pytest.fixture(scope="module")
def kafka(real_kafka_wanted: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    secured = SecuredKafka(tmp_path_factory.mktemp("certificates"))
    try:
        secured.start()
        yield secured
    finally:
        secured.stop()


@pytest.fixture
def folder(kafka: SecuredKafka, tmp_path: Path) -> Path:
    """With the certificates, an application, and a token."""
    for file in kafka.authority.file.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "token").write_text(token())
    return tmp_path


class World:
    """Topics and a group of a test's own, and a configuration for them."""

    def __init__(self, kafka: SecuredKafka, folder: Path, listener: str, client: dict[str, Any], **more: Any) -> None:
        plain = kafka.servers["plain"]
        self.kafka, self.folder, self.plain = kafka, folder, plain
        self.source, self.output, self.dead = (create_topic(plain, unique(name)) for name in ("in", "out", "dead"))
        self.config = configuration(
            kafka.servers[listener], "app:handle", self.source, self.output, dead_letter=self.dead, retry={"attempts": 1}, **more
        )
        self.config["kafka"] |= {"client": client, "connect_timeout": "20s"}
        self.config["shutdown"] = {"grace": "3s"}
        self.group = self.config["kafka"]["group"]
        produce(plain, self.source, ((b"%d" % n, b"%d" % n) for n in range(50)))

    def right(self, what: str) -> tuple[str, str, str]:
        """``read source`` → what an ACL says."""
        operation, _, name = what.partition(" ")
        known = {
            "source": ("TOPIC", self.source),
            "output": ("TOPIC", self.output),
            "dead": ("TOPIC", self.dead),
            "group": ("GROUP", self.group),
            "letters": ("GROUP", f"{self.group}.dead-letters"),
            "id": ("TRANSACTIONAL_ID", f"{self.group}.me"),
            "replay": ("TRANSACTIONAL_ID", f"{self.group}.dead-letters.{self.dead}"),
        }
        return (*known[name], operation.upper())

    def allow(self, *rights: str, principal: str = "shop") -> None:
        if rights:
            self.kafka.allow(principal, *map(self.right, rights))

    def run(self, *command: str) -> tuple[int, str, float]:
        """The status, everything that was said, and how long it took."""
        (self.folder / "app.yaml").write_text(yaml.safe_dump(self.config))
        begun = time.monotonic()
        done = gworkers(*command, "-c", "app.yaml", folder=self.folder)
        assert not re.search(r'File ".*/gworkers/', done.stdout + done.stderr), done.stderr  # a trace, of more than the handler
        return done.returncode, done.stdout + done.stderr, time.monotonic() - begun


SERVE = ("run", "--until-idle", "300ms")
ALL = ("read source", "write output", "write dead", "read group")


def tls(**more: Any) -> dict[str, Any]:
    return {"security_protocol": "SSL", "ssl_cafile": "good-ca.pem", **more}


# -- who is let in


@pytest.mark.parametrize("executor", ["thread", "greenlet"])
@pytest.mark.parametrize(
    ("listener", "client"),
    [
        ("tls", tls()),
        ("mtls", tls(ssl_certfile="good-shop.pem", ssl_keyfile="good-shop.key")),
        ("mtls", tls(ssl_certfile="good-locked.pem", ssl_keyfile="good-locked.key", ssl_password=KEY_PASSWORD)),
        ("password", PASSWORD),
        ("password", {**PASSWORD, "sasl_mechanism": "SCRAM-SHA-512"}),
        ("password_tls", {**PASSWORD, "security_protocol": "SASL_SSL", "ssl_cafile": "good-ca.pem"}),
        ("password", OAUTH),
        ("password", {**OAUTH, "sasl_oauth_token_provider": "app:Tokens"}),
    ],
    ids=["TLS", "client certificate", "encrypted key", "PLAIN", "SCRAM", "SASL_SSL", "OAUTHBEARER", "OAUTHBEARER class"],
)
def test_every_way_in_works(kafka: SecuredKafka, folder: Path, listener: str, client: dict[str, Any], executor: str) -> None:
    for name, password in (("shop", None), ("locked", KEY_PASSWORD)):
        for file in kafka.authority.issue(name, password=password):
            (folder / file.name).write_bytes(file.read_bytes())
    world = World(kafka, folder, listener, client, executor=executor)
    for principal in ("shop", "CN=shop", "CN=locked", "ANONYMOUS"):
        world.allow(*ALL, principal=principal)
    status, told, _ = world.run(*SERVE)
    assert status == 0, told
    assert len(consume(world.plain, world.output)) == 50


#: Name: listener, options, what is said. {host} is the listener's address.
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "no authority": (
        "tls",
        {"security_protocol": "SSL"},
        "{host} has a certificate that no authority which this machine knows has signed (unable to get local issuer certificate); "
        "set kafka.client.ssl_cafile",
    ),
    "another authority": ("tls", tls(ssl_cafile="other-ca.pem"), "{host} has a certificate that no authority in other-ca.pem has signed"),
    "expired": ("expired", tls(), "{host} has a certificate that has expired; it is the broker's to renew"),
    "another host": ("elsewhere", tls(), "{host} has a certificate for another host (IP address mismatch"),
    "no certificate of ours": ("mtls", tls(), "{host} wants a certificate of ours; set kafka.client.ssl_certfile and ssl_keyfile"),
    "a certificate that is not trusted": (
        "mtls",
        tls(ssl_certfile="other-shop.pem", ssl_keyfile="other-shop.key"),
        "{host} does not accept our certificate (ssl_certfile other-shop.pem)",
    ),
    "TLS where there is none": ("plain", tls(), "{host} speaks no TLS at this port; set kafka.client.security_protocol: PLAINTEXT"),
    "plain text where TLS is": ("tls", {}, "{host} speaks TLS; set kafka.client.security_protocol: SSL or SASL_SSL"),
    "no login": (
        "password",
        {},
        "{host} wants a login; set kafka.client.security_protocol: SASL_PLAINTEXT and sasl_mechanism "
        "(OAUTHBEARER, PLAIN, SCRAM-SHA-512 are enabled there)",
    ),
    "no login over TLS": ("password_tls", tls(), "{host} wants a login; set kafka.client.security_protocol: SASL_SSL and sasl_mechanism"),
    "a login where none is": ("plain", PASSWORD, "{host} asks for no login at this port; set kafka.client.security_protocol: PLAINTEXT"),
    "a login at a TLS port": ("tls", PASSWORD, "{host} speaks TLS; set kafka.client.security_protocol: SSL or SASL_SSL"),
    "a wrong password": (
        "password",
        {**PASSWORD, "sasl_plain_password": "Geheim0"},
        "{host} does not let the user shop in: Authentication failed: Invalid username or password; is the name right, and the password?",
    ),
    "an unknown user": (
        "password",
        {**PASSWORD, "sasl_plain_username": "who"},
        "{host} does not let the user who in: Authentication failed",
    ),
    "a wrong SCRAM password": (
        "password",
        {**PASSWORD, "sasl_mechanism": "SCRAM-SHA-512", "sasl_plain_password": "Geheim0"},
        "{host} does not let the user shop in: Authentication failed during authentication due to invalid credentials",
    ),
    "another mechanism": (
        "password",
        {**PASSWORD, "sasl_mechanism": "SCRAM-SHA-256"},
        "{host} does not know sasl_mechanism SCRAM-SHA-256; enabled there: OAUTHBEARER, PLAIN, SCRAM-SHA-512",
    ),
    "a token that has expired": ("password", OAUTH, "{host} does not let the token of sasl_oauth_token_provider in: "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_why_a_secured_broker_cannot_be_used_is_said_at_once(kafka: SecuredKafka, folder: Path, name: str) -> None:
    for file in kafka.other.issue("shop"):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "token").write_text(token(seconds=-100))
    listener, client, wanted = REFUSED[name]
    world = World(kafka, folder, listener, client)
    for command in (SERVE, ("lag",), ("dead-letters", "count")):
        status, told, took = world.run(*command)
        assert status == 69, told
        assert wanted.replace("{host}", kafka.servers[listener]) in told
        assert took < AT_ONCE
        assert not re.search("Geheim", told)


@pytest.mark.parametrize("command", [("tail", "x"), ("send", "x", "app.py"), ("dead-letters", "ls"), ("dead-letters", "replay")])
def test_every_command_says_that_it_cannot_ask(kafka: SecuredKafka, folder: Path, command: tuple[str, ...]) -> None:
    world = World(kafka, folder, "password", {**PASSWORD, "sasl_plain_password": "Geheim0"})
    status, told, took = world.run(*command)
    assert (status, took < AT_ONCE) == (69, True)
    assert "does not let the user shop in" in told


def test_a_token_provider_that_fails_is_waited_for_and_named(kafka: SecuredKafka, folder: Path) -> None:
    world = World(kafka, folder, "password", {**OAUTH, "sasl_oauth_token_provider": "app:Broken"})
    world.config["kafka"]["connect_timeout"] = "3s"
    status, told, _ = world.run(*SERVE)
    assert status == 69
    assert "cannot be logged in to: app:Broken.token() failed: OSError: the identity provider is away" in told


#: What the file says that cannot be: options, the option that is named, and what is said of it.
WRONG_FILES: dict[str, tuple[dict[str, Any], str, str]] = {
    "no file": (tls(ssl_cafile="nope.pem"), "ssl_cafile", "the file nope.pem cannot be read: No such file or directory"),
    "no certificate": (tls(ssl_cafile="app.py"), "ssl_cafile", "the file app.py holds no certificate; it has to be in PEM format"),
    "no key": (tls(ssl_certfile="good-shop.pem"), "ssl_certfile", "does not hold both a certificate and its key in PEM format"),
    "another key": (
        tls(ssl_certfile="good-shop.pem", ssl_keyfile="other-shop.key"),
        "ssl_keyfile",
        "the key in other-shop.key is not that of the certificate in good-shop.pem",
    ),
    "an encrypted key": (
        tls(ssl_certfile="good-locked.pem", ssl_keyfile="good-locked.key"),
        "ssl_keyfile",
        "the key in good-locked.key is encrypted; set ssl_password",
    ),
    "a wrong key password": (
        tls(ssl_certfile="good-locked.pem", ssl_keyfile="good-locked.key", ssl_password="Geheim0"),
        "ssl_keyfile",
        "the key in good-locked.key is encrypted; ssl_password does not open it",
    ),
    "expired": (tls(ssl_certfile="good-old.pem", ssl_keyfile="good-old.key"), "ssl_certfile", "in good-old.pem has expired: "),
    "a folder": (tls(ssl_cafile="."), "ssl_cafile", "cannot be read: Is a directory"),
    "a protocol": ({"security_protocol": "TLS"}, "security_protocol", "expected PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"),
    "no TLS": ({"ssl_cafile": "good-ca.pem"}, "ssl_cafile", "it has no effect with security_protocol: PLAINTEXT"),
    "no SASL": ({**PASSWORD, "security_protocol": "PLAINTEXT"}, "sasl_mechanism", "it has no effect with security_protocol: PLAINTEXT"),
    "no mechanism": ({"security_protocol": "SASL_PLAINTEXT"}, "security_protocol", "to log in, a sasl_mechanism is needed"),
    "no name": (
        {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN"},
        "sasl_mechanism",
        "PLAIN logs in with a name and a password; set sasl_plain_username too",
    ),
    "no provider": (
        {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "OAUTHBEARER"},
        "sasl_mechanism",
        "OAUTHBEARER logs in with tokens; set sasl_oauth_token_provider",
    ),
    "no tokens": ({**OAUTH, "sasl_oauth_token_provider": "app:nothing"}, "sasl_oauth_token_provider", "app:nothing has no token()"),
    "no such object": (
        {**OAUTH, "sasl_oauth_token_provider": "app:none"},
        "sasl_oauth_token_provider",
        "app:none cannot be had: app has no none",
    ),
    "a number for a password": (
        {**PASSWORD, "sasl_plain_password": 4711},
        "sasl_plain_password",
        "expected text, got a value that is (hidden)",
    ),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_what_can_be_told_from_the_files_is_told_by_check(kafka: SecuredKafka, folder: Path, name: str) -> None:
    issued = [*kafka.authority.issue("shop"), *kafka.authority.issue("locked", password=KEY_PASSWORD)]
    for file in (*issued, *kafka.authority.issue("old", days=-1), *kafka.other.issue("shop")):
        (folder / file.name).write_bytes(file.read_bytes())
    client, option, wanted = WRONG_FILES[name]
    world = World(kafka, folder, "tls", client)
    for command in (("check",), SERVE):
        status, told, took = world.run(*command)
        assert (status, took < AT_ONCE) == (78, True), told
        assert re.search(rf"app\.yaml:\d+: kafka\.client\.{option}: .*{re.escape(wanted)}", told), told
        assert not re.search("Geheim|4711", told)


# -- who may do what


@pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])
@pytest.mark.parametrize("lacking", ["read source", "read group", "write output", "write dead", "write id"])
def test_a_right_that_is_missing_is_said_with_its_command_and_costs_no_message(
    kafka: SecuredKafka, folder: Path, lacking: str, delivery: str
) -> None:
    if lacking == "write id" and delivery == "at-least-once":
        pytest.skip("it needs none")
    more = {"delivery": delivery, "instance": "me"} if delivery == "exactly-once" else {}
    world = World(kafka, folder, "password", PASSWORD, **more)
    world.allow(*{*ALL, "write id"} - {lacking})
    if lacking == "write dead":
        world.config["routes"]["main"]["handler"] = "app:fail"
    status, told, took = world.run(*SERVE)
    assert (status, took < AT_ONCE) == (69, True), told
    resource, name, operation = world.right(lacking)
    option = {"TOPIC": "topic", "GROUP": "group", "TRANSACTIONAL_ID": "transactional-id"}[resource]
    assert "User:shop has no right to " in told
    command = f"--add --allow-principal 'User:shop' --operation {operation.capitalize()} --{option} {name}"
    assert f"kafka-acls.sh --bootstrap-server {kafka.servers['password']} {command}" in told
    assert "does not exist" not in told
    assert not consume(world.plain, world.dead)
    world.allow(lacking)
    status, told, _ = world.run(*SERVE)
    assert status == 0, told
    where = world.dead if lacking == "write dead" else world.output
    assert sorted(int(m.value()) for m in consume(world.plain, where)) == list(range(50))


def test_a_topic_that_the_handler_names_is_the_messages_fault(kafka: SecuredKafka, folder: Path) -> None:
    secret = create_topic(kafka.servers["plain"], unique("secret"))
    world = World(kafka, folder, "password", PASSWORD)
    world.allow(*ALL)
    lines = f"import gworkers\ndef handle(value):\n    return gworkers.Record(value, topic={secret!r}) if value == b'7' else value\n"
    (folder / "app.py").write_text(lines)
    status, told, _ = world.run(*SERVE)
    assert status == 0, told
    assert len(consume(world.plain, world.output)) == 49
    assert [m.value() for m in consume(world.plain, world.dead)] == [b"7"]


@pytest.mark.parametrize(
    ("command", "rights", "wanted"),
    [
        (("lag",), (), "no right to read the topic"),
        (("lag",), ("read source",), "no right to use the group"),
        (("tail", "SOURCE", "--no-follow"), (), "no right to read the topic"),
        (("send", "SOURCE", "app.py"), (), "no right to write to the topic"),
        (("dead-letters", "ls"), (), "no right to read the topic"),
        (("dead-letters", "ls"), ("read dead",), "no right to use the group"),
        (("dead-letters", "count"), (), "no right to read the topic"),
        (("dead-letters", "drop", "--yes"), ("read dead",), "no right to use the group"),
        (("dead-letters", "replay"), ("read dead", "read letters", "write source"), "no right to use the transactional id"),
        (("dead-letters", "replay"), ("read dead", "read letters", "write replay"), "no right to write to the topic"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_commands_say_which_right_they_lack(
    kafka: SecuredKafka, folder: Path, command: tuple[str, ...], rights: tuple[str, ...], wanted: str
) -> None:
    world = World(kafka, folder, "password", PASSWORD)
    if command[0] == "dead-letters":  # there has to be something to be replayed
        world.config["routes"]["main"]["handler"] = "app:fail"
        served = World(kafka, folder, "plain", {})
        served.config["routes"] = world.config["routes"]
        served.config["kafka"]["group"] = world.group
        assert served.run(*SERVE)[0] == 0
    world.allow(*rights)
    status, told, took = world.run(*(world.source if part == "SOURCE" else part for part in command))
    assert (status, took < AT_ONCE) == (69, True), told
    assert f"User:shop has {wanted}" in told
    assert "kafka-acls.sh" in told


def test_the_least_rights_are_enough_for_every_command(kafka: SecuredKafka, folder: Path) -> None:
    """Those that docs/security.md lists."""
    world = World(kafka, folder, "password", PASSWORD)
    world.config["routes"]["main"]["handler"] = "app:fail"
    world.allow("read source", "read group", "write dead")
    assert world.run(*SERVE)[0] == 0
    assert world.run("lag")[0] == 0
    world.allow("read dead", "read letters", "write replay", "write source")
    assert len(world.run("dead-letters", "ls", "--json")[1].splitlines()) == 50
    assert re.search(f"^50 dead letters sent again to {world.source}$", world.run("dead-letters", "replay")[1], re.MULTILINE)
    assert world.run("dead-letters", "ls")[1] == "no dead letters\n"
    assert world.run("tail", world.source, "--from", "beginning", "--no-follow")[0] == 0


# -- while it runs


def serving(world: World, start: Callable[..., Any]) -> Any:
    server = start(world.config, app=(world.folder / "app.py").read_text())
    server.says("assigned: ")
    until(lambda: len(consume(world.plain, world.output)) == 50, what="the first results")
    return server


@pytest.mark.parametrize("right", ["read source", "write output", "read group"])
def test_a_right_that_is_taken_away_while_it_runs_ends_it_with_a_sentence(
    kafka: SecuredKafka, folder: Path, start: Any, right: str
) -> None:
    world = World(kafka, folder, "password", PASSWORD)
    world.allow(*ALL)
    server = serving(world, start)
    kafka.take_away("shop", world.right(right))
    produce(world.plain, world.source, [(b"k", b"50")])
    assert server.wait(40) == 69, server.log
    assert "User:shop has no right to " in server.log
    assert "Traceback" not in server.log
    assert not consume(world.plain, world.dead)


def test_a_password_that_is_changed_while_it_runs_is_told_and_loses_nothing(kafka: SecuredKafka, folder: Path, start: Any) -> None:
    """Connections that are made stay; what has to log in anew is refused until the password is right
    again."""
    world = World(kafka, folder, "password", {**PASSWORD, "sasl_mechanism": "SCRAM-SHA-512"})
    world.config["admin"] = {"bind": "127.0.0.1:0"}
    world.allow(*ALL)
    server = serving(world, start)
    kafka.scram("shop", "another-Geheim4")
    kafka.kafka.terminate()
    kafka.kafka.start()
    try:
        server.says(r"cannot be used: \S+ does not let the user shop in: |until then: \S+ does not let the user shop in: ", timeout=60)
        address = server.says(r"admin at ([0-9.:]+)")[1]
        assert_unhealthy(address)
    finally:
        kafka.scram("shop", PASSWORDS["shop"])
    server.says("Kafka is back after", timeout=60)
    produce(world.plain, world.source, [(b"k", b"50")])
    until(lambda: len(consume(world.plain, world.output)) == 51, what="the new result")
    assert server.stop() == 0
    assert "Geheim" not in server.log


def test_a_broker_that_comes_back_with_another_authority_is_told_and_loses_nothing(kafka: SecuredKafka, folder: Path, start: Any) -> None:
    world = World(kafka, folder, "tls", tls())
    world.allow(*ALL, principal="ANONYMOUS")
    server = serving(world, start)
    store = kafka.authority.file.with_name("good-broker.keystore.pem")
    good = store.read_bytes()
    kafka.kafka.terminate()
    try:
        store.write_bytes(kafka.other.keystore("broker").read_bytes())
        kafka.kafka.start()
        server.says(r"cannot be used: \S+ has a certificate that no authority|until then: \S+ has a certificate that no authority", 60)
    finally:
        kafka.kafka.terminate()
        store.write_bytes(good)
        kafka.kafka.start()
    server.says("Kafka is back after", timeout=60)
    produce(world.plain, world.source, [(b"k", b"50")])
    until(lambda: len(consume(world.plain, world.output)) == 51, what="the new result")
    assert server.stop() == 0


def assert_unhealthy(address: str) -> None:
    import requests

    def look() -> bool:
        answer = requests.get(f"http://{address}/healthz", timeout=5)
        return answer.status_code == 503 and "does not let the user shop in" in json.dumps(answer.json())

    until(look, 60, "a health that says why")


# -- where brokers send their clients


@pytest.mark.parametrize(("host", "why"), [("kafka-1.invalid", "is no known host name"), ("127.0.0.9", "refuses connections")])
def test_an_advertised_address_that_leads_nowhere_is_named(real_kafka_wanted: None, tmp_path: Path, host: str, why: str) -> None:
    kafka = Kafka(advertised=host)
    try:
        kafka.start()
        config = configuration(kafka.servers, "app:handle", "t")
        config["kafka"]["connect_timeout"] = "3s"
        (tmp_path / "app.yaml").write_text(yaml.safe_dump(config))
        (tmp_path / "app.py").write_text(APP)
        for command in (SERVE, ("lag",)):
            begun = time.monotonic()
            done = gworkers(*command, "-c", "app.yaml", folder=tmp_path)
            assert done.returncode == 69
            assert 3 <= time.monotonic() - begun < 10
            wanted = f"it answers, and sends its clients to {host}:{kafka.port}, which {why}"
            assert wanted in done.stderr
            assert "advertised.listeners" in done.stderr
    finally:
        kafka.stop()


# -- what is never shown


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512", "OAUTHBEARER"])
def test_no_output_of_any_command_contains_a_secret(kafka: SecuredKafka, folder: Path, level: str, mechanism: str) -> None:
    (folder / "password").write_text(PASSWORDS["shop"] + "\n")
    client = OAUTH if mechanism == "OAUTHBEARER" else {**PASSWORD, "sasl_mechanism": mechanism, "sasl_plain_password": "${file:password}"}
    world = World(kafka, folder, "password", {**client, "sasl_kerberos_domain_name": "${DOMAIN}"})
    world.config["logging"] = {"level": level}
    world.allow(*ALL)
    os.environ["DOMAIN"] = "domain-Geheim5"
    try:
        commands = (SERVE, ("check",), ("config",), ("lag",), ("tail", world.output, "--no-follow"), ("dead-letters", "ls"))
        for command in commands:
            _, told, _ = world.run(*command)
            secrets = ("Geheim", (folder / "token").read_text(), *(p.encode().hex() for p in PASSWORDS.values()))
            assert not any(secret in told for secret in secrets), [line for line in told.splitlines() if "Geheim" in line]
    finally:
        del os.environ["DOMAIN"]
