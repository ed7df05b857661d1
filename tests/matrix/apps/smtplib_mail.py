"""smtplib: a connection for each mail."""

import os
import smtplib
from email.message import EmailMessage


def handle(value: str) -> str:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "shop@example.org", "customer@example.org", value
    mail.set_content(f"order {value}")
    with smtplib.SMTP("127.0.0.1", int(os.environ["SMTP_PORT"]), timeout=10) as smtp:
        smtp.send_message(mail)
    return str(int(value) * 2)
