"""An Apache Kafka that lets in only whom it knows: TLS, client certificates, passwords, tokens and
rights, with certificates made on the spot."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import time
from pathlib import Path
from typing import Any

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.broker import Kafka, free_port

#: Passwords that no output of any command may contain.
PASSWORDS = {"shop": "shop-Geheim1", "nobody": "nobody-Geheim2"}
KEY_PASSWORD = "key-Geheim3"

_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required " + " ".join(
    f'user_{name}="{password}"' for name, password in PASSWORDS.items()
)
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required"
_OAUTH = 'org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker"'


class Authority:
    """A certificate authority and what it signs, as PEM files in ``folder``."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority {name}")])
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(self._key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=30))
        builder = builder.not_valid_after(now + datetime.timedelta(days=30))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs=True), critical=True)  # Python 3.13 asks for these by default
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
        self.certificate = builder.sign(self._key, hashes.SHA256())
        self.file = folder / f"{name}-ca.pem"
        self.file.write_bytes(_pem(self.certificate))

    def issue(
        self, name: str, *, hosts: tuple[str, ...] = ("127.0.0.1", "localhost"), days: float = 10, password: str | None = None
    ) -> tuple[Path, Path]:
        """A certificate for CN=name and these hosts, valid for so many days from now on (below 0:
        until so many days ago). Returns the files of the certificate and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        names: list[x509.GeneralName] = [
            x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host) for host in hosts
        ]
        builder = x509.CertificateBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        builder = builder.issuer_name(self.certificate.subject).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=20))
        builder = builder.not_valid_after(now + datetime.timedelta(days=days))
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(_usage(signs=False), critical=True)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        locked: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if password is not None:
            locked = serialization.BestAvailableEncryption(password.encode())
        files = self._folder / f"{self._name}-{name}.pem", self._folder / f"{self._name}-{name}.key"
        files[0].write_bytes(_pem(certificate))
        files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked))
        return files

    def keystore(self, name: str, **more: Any) -> Path:
        """Certificate and key in one file, as Kafka takes them."""
        certificate, key = self.issue(name, **more)
        file = self._folder / f"{self._name}-{name}.keystore.pem"
        file.write_bytes(key.read_bytes() + certificate.read_bytes())
        return file


def _usage(*, signs: bool) -> x509.KeyUsage:
    """Of an authority's key, which signs certificates, and of one that is somebody's own."""
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def token(subject: str = "shop", seconds: float = 3600) -> str:
    """An unsecured JSON web token, which this broker believes."""
    now = time.time()

    def part(content: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")

    return f"{part({'alg': 'none'})}.{part({'sub': subject, 'iat': now, 'exp': now + seconds})}."


class SecuredKafka:
    """One broker with a listener for each way in. servers: by the listener's name: ``plain`` (nobody
    is asked; the one that may do everything), ``tls``, ``mtls``, ``password`` (SASL over plain
    text), ``password_tls``, and ``expired`` and ``elsewhere``, whose certificates are not good for
    127.0.0.1 today."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder, "good")
        self.other = Authority(folder, "other")
        names = ("tls", "mtls", "password", "password_tls", "expired", "elsewhere")
        ports = {name: free_port() for name in names}
        stores = {
            "tls": self.authority.keystore("broker"),
            "expired": self.authority.keystore("late", days=-1),
            "elsewhere": self.authority.keystore("far", hosts=("kafka.example",)),
        }
        protocols = {"password": "SASL_PLAINTEXT", "password_tls": "SASL_SSL"}
        listener = {name: name.upper().replace("_", "") for name in names}
        properties: dict[str, Any] = {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512,OAUTHBEARER",
        }
        for name in names:
            prefix = f"listener.name.{listener[name].lower()}"
            if protocols.get(name, "SSL") in ("SSL", "SASL_SSL"):
                store = stores.get(name, stores["tls"])
                properties |= {
                    f"{prefix}.ssl.keystore.type": "PEM",
                    f"{prefix}.ssl.keystore.location": str(store),
                    f"{prefix}.ssl.truststore.type": "PEM",
                    f"{prefix}.ssl.truststore.location": str(self.authority.file),
                    f"{prefix}.ssl.client.auth": "required" if name == "mtls" else "none",
                }
            if name.startswith("password"):
                properties |= {
                    f"{prefix}.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512,OAUTHBEARER",
                    f"{prefix}.plain.sasl.jaas.config": f"{_PLAIN};",
                    f"{prefix}.scram-sha-512.sasl.jaas.config": f"{_SCRAM};",
                    f"{prefix}.oauthbearer.sasl.jaas.config": f"{_OAUTH};",
                    f"{prefix}.oauthbearer.sasl.server.callback.handler.class": "org.apache.kafka.common.security.oauthbearer.internals."
                    "unsecured.OAuthBearerUnsecuredValidatorCallbackHandler",
                }
        self.kafka = Kafka(listeners_more=tuple((listener[name], ports[name], protocols.get(name, "SSL")) for name in names), **properties)
        self.servers = {"plain": self.kafka.servers, **{name: f"127.0.0.1:{port}" for name, port in ports.items()}}

    def start(self) -> None:
        self.kafka.start()
        self.admin = AdminClient({"bootstrap.servers": self.kafka.servers})
        for name, password in PASSWORDS.items():
            self.scram(name, password)

    def stop(self) -> None:
        self.kafka.stop()

    def scram(self, user: str, password: str) -> None:
        """Give a user a password for SCRAM-SHA-512."""
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        for future in self.admin.alter_user_scram_credentials([UserScramCredentialUpsertion(user, info, password.encode())]).values():
            future.result(10)

    @staticmethod
    def _binding(kind: Any, principal: str, resource: str, name: str, operation: str) -> Any:
        return kind(
            ResourceType[resource],
            name,
            ResourcePatternType.LITERAL,
            f"User:{principal}",
            "*",
            AclOperation[operation],
            AclPermissionType.ALLOW,
        )

    def allow(self, principal: str, *rights: tuple[str, str, str]) -> None:
        """rights: of (TOPIC, GROUP, TRANSACTIONAL_ID …), name, operation."""
        bindings = [self._binding(AclBinding, principal, *right) for right in rights]
        for future in self.admin.create_acls(bindings).values():
            future.result(10)

    def take_away(self, principal: str, *rights: tuple[str, str, str]) -> None:
        bindings = [self._binding(AclBindingFilter, principal, *right) for right in rights]
        for future in self.admin.delete_acls(bindings).values():
            future.result(10)
