"""The mailbox's environment."""

from pathlib import Path

from pydantic_settings import BaseSettings


class MailboxSettings(BaseSettings):
    mailbox_smtp_listen: str
    mailbox_web_listen: str
    mailbox_data: Path
