"""Having captions written by a model behind an OpenAI-compatible server: asking, paying, and never twice."""
