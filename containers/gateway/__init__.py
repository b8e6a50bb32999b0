"""The gateway: OpenAI's interface in front of vLLM, sticky assignment to versions, and a log of every request."""
