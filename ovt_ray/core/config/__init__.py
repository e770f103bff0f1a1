"""The configuration: frozen pydantic models, one file for each part."""
