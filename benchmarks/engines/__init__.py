"""Engines: what this toolkit costs inside LMCache, vLLM and SGLang."""
