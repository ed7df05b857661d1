"""SQLAlchemy: an engine for the process, a session for each message."""

import os

from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

engine = create_engine(
    os.environ["POSTGRES_URL"].replace("postgresql:", "postgresql+psycopg:"), pool_size=20, max_overflow=0, pool_pre_ping=True
)


def end() -> None:
    engine.dispose()


def handle(value: str) -> str:
    with Session(engine) as session:
        return str(session.execute(text("SELECT CAST(:n AS int) * 2, pg_sleep(0.002)"), {"n": value}).scalar_one())
