"""What production's secrets are made of beside what is drawn."""

from pydantic import SecretStr

from services.chassis.settings import ProcessSettings


class OutsideSettings(ProcessSettings):
    # Given by Stripe; as payments reads them.
    stripe_secret_key: SecretStr
    stripe_webhook_secrets: SecretStr
    # smtps://user:password@host:465
    smtp_url: SecretStr
