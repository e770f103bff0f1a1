"""The configuration: frozen pydantic models, a file for each part."""
