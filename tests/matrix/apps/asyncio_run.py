"""asyncio.run in an ordinary function: a loop for each message."""

import asyncio


async def double(value: str) -> str:
    await asyncio.sleep(0.001)
    return str(int(value) * 2)


def handle(value: str) -> str:
    return asyncio.run(double(value))
