"""The mailbox's environment variables."""

from pathlib import Path

from services.chassis.setting_values import Listen
from services.chassis.settings import ProcessSettings


class MailboxSettings(ProcessSettings):
    mailbox_smtp_listen: Listen = "127.0.0.1:8025"
    mailbox_web_listen: Listen = "127.0.0.1:8026"
    # Folder of the SQLite file.
    mailbox_data: Path
