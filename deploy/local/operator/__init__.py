"""The operator's commands: over REST at the gateway, so that they work on any deployment and are audited."""
