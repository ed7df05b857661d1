"""boto3: one client, which may be shared between threads."""

import os

import boto3
from botocore.config import Config

client = boto3.client(
    "s3",
    endpoint_url=os.environ["S3_URL"],
    region_name="us-east-1",
    aws_access_key_id="test",
    aws_secret_access_key="test",
    config=Config(max_pool_connections=64, s3={"addressing_style": "path"}),
)


def end() -> None:
    client.close()


def handle(value: str) -> str:
    client.put_object(Bucket="orders", Key=value, Body=str(int(value) * 2).encode())
    return str(client.get_object(Bucket="orders", Key=value)["Body"].read().decode())
