"""Who may use the service: API keys, their scopes and their rates."""
