"""Packaging. Everything a package index shows of the project is here; pyproject.toml configures
tools alone."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "([^"]+)"', (HERE / "gworkers/__init__.py").read_text(), re.MULTILINE).group(1)

setup(
    name="gworkers",
    version=VERSION,
    description="Concurrent workers between Kafka topics and ordinary synchronous functions",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    author="The gworkers founders",
    license="MIT",
    packages=find_packages(include=["gworkers", "gworkers.*"]),
    package_data={"gworkers": ["py.typed"], "gworkers.admin.page": ["templates/*", "static/*"]},
    python_requires=">=3.11",
    install_requires=[
        "gevent>=24.2",
        "Jinja2>=3.1",
        "kafka-python[crc32c]>=3.0.9,<3.1",  # gworkers/kafka/ knows the inside of these (versions.py)
        "PyYAML>=6.0",
        "python-dotenv>=1",
        "pydantic>=2.7,<3",
        "click>=8.1",
        "prometheus-client>=0.20",
    ],
    extras_require={
        "embedded": ["confluent-kafka>=2.3"],  # the first-run broker is the mock cluster in its wheel
        "django": ["Django>=4.2"],
        "flask": ["Flask>=2.3"],
        "lz4": ["lz4>=4"],
        "msgpack": ["msgpack>=1"],
        "opentelemetry": ["opentelemetry-api>=1.20"],
        "otlp": ["opentelemetry-sdk>=1.20", "opentelemetry-exporter-otlp-proto-http>=1.20"],
        "psycopg": ["psycopg>=3.1", "psycopg-pool>=3.2"],
        "redis": ["redis>=5"],
        "sentry": ["sentry-sdk>=2"],
        "sqlalchemy": ["SQLAlchemy>=2"],
        "statsd": ["statsd>=4"],
        "structlog": ["structlog>=23"],
        "top": ["textual>=1", "rich>=13"],
        "title": ["setproctitle>=1.3"],
        "snappy": ["python-snappy>=0.7"],
        "zstd": ["zstandard>=0.20"],
    },
    entry_points={
        "console_scripts": ["gworkers = gworkers.__main__:main"],
        "pytest11": ["gworkers = gworkers.pytest_plugin"],
    },
    keywords=["kafka", "gevent", "worker", "consumer", "concurrency"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "License :: OSI Approved :: MIT License",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: System :: Distributed Computing",
        "Typing :: Typed",
    ],
)
