"""What wallet reads from its environment."""

from pydantic import Field

from services.chassis.setting_values import HmacKey
from services.chassis.settings import ServiceSettings


class WalletSettings(ServiceSettings):
    """DATABASE_APP_URL, DATABASE_WORKER_URL, NATS_URL, GRPC_LISTEN, DATA_ENCRYPTION_KEYS, and these."""

    # base64url(32 bytes): finds a profile by its e-mail without storing the address in the clear.
    email_hmac_key: HmacKey
    # A hold younger than this is not asked about; a saga that runs normally takes far less.
    hold_seconds: int = Field(default=60, ge=1)
    # The pause before the second question about one hold; it doubles up to 16 times this.
    hold_ask_again_seconds: int = Field(default=30, ge=1)
